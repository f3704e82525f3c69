//! The cluster's DNS: names of services, of headless services' endpoints, SRV and reverse names; nothing else exists.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::network::table::{Contents, ServiceTable};
use crate::network::{Network, NetworkError};

/// How long answers may be kept, in seconds. Short, so that a moved name is seen soon.
const TTL: u32 = 1;

/// Serves DNS inside the cluster until the future is dropped.
pub async fn serve(network: &Network, table: ServiceTable) -> Result<(), NetworkError> {
    let io = |source| NetworkError::Io { step: "DNS socket", source };
    let address = network.addresses().dns();
    let udp = network.thread().run(move || std::net::UdpSocket::bind((address, 53))).await.map_err(io)?.map_err(io)?;
    udp.set_nonblocking(true).map_err(io)?;
    let udp = UdpSocket::from_std(udp).map_err(io)?;
    let tcp = TcpListener::from_std(network.listen(address, 53).await?).map_err(io)?;
    let table = Arc::new(table);
    tokio::join!(serve_udp(udp, &table), serve_tcp(tcp, &table));
    Ok(())
}

async fn serve_udp(socket: UdpSocket, table: &ServiceTable) {
    let mut buffer = [0u8; 1500];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = respond(&buffer[..length], table, false) {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, table: &Arc<ServiceTable>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve_connection(stream, Arc::clone(table)));
    }
}

async fn serve_connection(mut stream: TcpStream, table: Arc<ServiceTable>) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut request = vec![0; usize::from(length)];
        stream.read_exact(&mut request).await?;
        let Some(answer) = respond(&request, &table, true) else { return Ok(()) };
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&answer).await?;
    }
}

fn respond(request: &[u8], table: &ServiceTable, tcp: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(request).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.authoritative = true;
    let Some(query) = request.queries.first().filter(|_| request.metadata.op_code == OpCode::Query) else {
        response.metadata.response_code = ResponseCode::NotImp;
        return response.to_vec().ok();
    };
    response.add_query(query.clone());
    let answer = table.read(|contents| answer(query, contents));
    response.metadata.response_code = answer.code;
    if answer.records.is_empty() {
        response.add_authority(authority());
    }
    for data in answer.records {
        response.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    }
    for (name, ip) in answer.additional {
        response.add_additional(Record::from_rdata(name, TTL, RData::A(A(ip))));
    }
    let bytes = response.to_vec().ok()?;
    let limit = usize::from(request.max_payload().max(512));
    if !tcp && bytes.len() > limit {
        return response.truncate().to_vec().ok();
    }
    Some(bytes)
}

/// What a name resolves to.
struct Answer {
    code: ResponseCode,
    records: Vec<RData>,
    additional: Vec<(Name, Ipv4Addr)>,
}

impl Answer {
    fn unknown() -> Self {
        Self { code: ResponseCode::NXDomain, records: Vec::new(), additional: Vec::new() }
    }

    /// The name exists; `records` may be empty.
    fn found(records: Vec<RData>) -> Self {
        Self { code: ResponseCode::NoError, records, additional: Vec::new() }
    }

    fn addresses(kind: RecordType, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let wanted = matches!(kind, RecordType::A | RecordType::ANY);
        Self::found(addresses.into_iter().filter(|_| wanted).map(|ip| RData::A(A(ip))).collect())
    }
}

fn authority() -> Record {
    let name = |text: &str| Name::from_ascii(text).unwrap_or_else(|_| Name::root());
    let soa = SOA::new(name("ns.dns.cluster.local."), name("hostmaster.cluster.local."), 1, 7200, 1800, 86400, 1);
    Record::from_rdata(name("cluster.local."), TTL, RData::SOA(soa))
}

fn answer(query: &Query, contents: &Contents) -> Answer {
    let name = query.name().to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        return reverse(reversed, query.query_type(), contents);
    }
    let Some(rest) = name.strip_suffix("cluster.local") else { return Answer::unknown() };
    let mut labels: Vec<&str> = rest.trim_end_matches('.').split('.').filter(|l| !l.is_empty()).collect();
    let kind = query.query_type();
    match labels.pop() {
        None => Answer::found(Vec::new()),
        Some("svc") => service(&labels, kind, contents),
        Some("pod") => pod(&labels, kind),
        Some(_) => Answer::unknown(),
    }
}

/// `labels`: what stands before `.svc.cluster.local`.
fn service(labels: &[&str], kind: RecordType, contents: &Contents) -> Answer {
    match *labels {
        [] => Answer::found(Vec::new()),
        [namespace] => {
            if contents.has_namespace(namespace) {
                Answer::found(Vec::new())
            } else {
                Answer::unknown()
            }
        }
        [name, namespace] => {
            let Some(entry) = contents.service(namespace, name) else { return Answer::unknown() };
            if let Some(target) = &entry.external_name {
                let target = Name::from_ascii(format!("{}.", target.trim_end_matches('.')));
                return Answer::found(target.into_iter().map(|t| RData::CNAME(CNAME(t))).collect());
            }
            match entry.address {
                Some(address) => Answer::addresses(kind, [address]),
                None => Answer::addresses(kind, endpoint_addresses(contents, namespace, name, None)),
            }
        }
        [host, name, namespace] if !host.starts_with('_') => {
            if contents.service(namespace, name).is_none() {
                return Answer::unknown();
            }
            let addresses = endpoint_addresses(contents, namespace, name, Some(host));
            if addresses.is_empty() { Answer::unknown() } else { Answer::addresses(kind, addresses) }
        }
        [port, transport, name, namespace] if port.starts_with('_') && transport.starts_with('_') => {
            srv(&port[1..], &transport[1..], name, namespace, kind, contents)
        }
        _ => Answer::unknown(),
    }
}

/// Ready endpoints of a headless service, or the one called `host`.
fn endpoint_addresses(contents: &Contents, namespace: &str, service: &str, host: Option<&str>) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = contents
        .slices(namespace, service)
        .flat_map(|slice| &slice.endpoints)
        .filter(|e| e.ready)
        .filter(|e| host.is_none_or(|host| e.hostname.as_deref() == Some(host) || dashed(e.address) == host))
        .map(|e| e.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

fn srv(port: &str, transport: &str, name: &str, namespace: &str, kind: RecordType, contents: &Contents) -> Answer {
    let Some(entry) = contents.service(namespace, name) else { return Answer::unknown() };
    let zone = format!("{name}.{namespace}.svc.cluster.local.");
    let mut targets: Vec<(String, u16, Ipv4Addr)> = Vec::new();
    if let Some(address) = entry.address {
        targets.extend(
            entry
                .ports
                .iter()
                .filter(|(n, t, _)| n == port && t.name() == transport)
                .map(|(_, _, number)| (zone.clone(), *number, address)),
        );
    } else {
        for slice in contents.slices(namespace, name) {
            let Some((_, _, number)) = slice.ports.iter().find(|(n, t, _)| n == port && t.name() == transport) else {
                continue;
            };
            targets.extend(slice.endpoints.iter().filter(|e| e.ready).map(|e| {
                let host = e.hostname.clone().unwrap_or_else(|| dashed(e.address));
                (format!("{host}.{zone}"), *number, e.address)
            }));
        }
    }
    if targets.is_empty() {
        return Answer::unknown();
    }
    let mut answer = Answer::found(Vec::new());
    for (target, number, address) in targets {
        let Ok(target) = Name::from_ascii(&target) else { continue };
        if matches!(kind, RecordType::SRV | RecordType::ANY) {
            answer.records.push(RData::SRV(SRV::new(0, 100, number, target.clone())));
            answer.additional.push((target, address));
        }
    }
    answer
}

/// `10-1-2-3.NAMESPACE.pod.cluster.local`.
fn pod(labels: &[&str], kind: RecordType) -> Answer {
    let [dashed, _namespace] = *labels else { return Answer::unknown() };
    match dashed.replace('-', ".").parse() {
        Ok(address) => Answer::addresses(kind, [address]),
        Err(_) => Answer::unknown(),
    }
}

fn reverse(reversed: &str, kind: RecordType, contents: &Contents) -> Answer {
    let forward: Vec<&str> = reversed.split('.').rev().collect();
    let Ok(address) = forward.join(".").parse::<Ipv4Addr>() else { return Answer::unknown() };
    let Some((namespace, name)) = contents.service_at(address) else { return Answer::unknown() };
    match Name::from_ascii(format!("{name}.{namespace}.svc.cluster.local.")) {
        Ok(name) if kind == RecordType::PTR => Answer::found(vec![RData::PTR(PTR(name))]),
        _ => Answer::found(Vec::new()),
    }
}
