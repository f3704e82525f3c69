//! Probes: one look at a container by HTTP, TCP or a command.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::running::Running;

/// What a probe needs to look.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The node's address: probes come from there.
    pub(crate) node: Ipv4Addr,
    pub(crate) address: Ipv4Addr,
    pub(crate) container: Arc<Container>,
    pub(crate) running: Arc<Running>,
}

/// Looks once, within the probe's timeout. The error is the text of the event.
pub(crate) async fn look(probe: &Probe, target: &Target) -> Result<(), String> {
    let limit = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match target.running.run_command(command, limit).await {
            Ok((0, _)) => Ok(()),
            Ok((_, output)) => Err(output),
            Err(error) => Err(error),
        };
    }
    let attempt = async {
        if let Some(get) = &probe.http_get {
            http_get(get, target).await
        } else if let Some(tcp) = &probe.tcp_socket {
            tcp_connect(tcp, target).await
        } else if probe.grpc.is_some() {
            Err("gRPC probes are not supported by the sandbox".to_owned())
        } else {
            Ok(())
        }
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(match &probe.http_get {
            Some(get) => format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                url(get, target).unwrap_or_default()
            ),
            None => "dial tcp: i/o timeout".to_owned(),
        }),
    }
}

/// A port by number or by the name that the container gives it.
fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("invalid port number: {number}")),
        IntOrString::String(name) => name
            .parse()
            .ok()
            .or_else(|| {
                let ports = container.ports.iter().flatten();
                ports.filter(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port as u16).next()
            })
            .ok_or_else(|| format!("couldn't find port: {name}")),
    }
}

fn url(get: &HTTPGetAction, target: &Target) -> Result<String, String> {
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let host = get.host.clone().unwrap_or_else(|| target.address.to_string());
    let path = get.path.as_deref().unwrap_or("/");
    Ok(format!("{scheme}://{host}:{}{path}", port(&get.port, &target.container)?))
}

async fn tcp_connect(tcp: &TCPSocketAction, target: &Target) -> Result<(), String> {
    let host = tcp.host.clone().unwrap_or_else(|| target.address.to_string());
    let port = port(&tcp.port, &target.container)?;
    dial(&host, port, target).await.map(drop).map_err(|e| format!("dial tcp {host}:{port}: {e}"))
}

/// Connects as the pod's node, which reaches its pods also when it is cut off from everything else.
async fn dial(host: &str, port: u16, target: &Target) -> std::io::Result<TcpStream> {
    if host.parse() != Ok(target.address) {
        return TcpStream::connect((host, port)).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind((target.node, 0).into())?;
    socket.connect((target.address, port).into()).await
}

/// One GET over HTTP/1.1. Written by hand: a probe needs the status line and a little of the body, nothing else.
pub(crate) async fn http_get(get: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let port = port(&get.port, &target.container)?;
    let host = get.host.clone().unwrap_or_else(|| target.address.to_string());
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = url(get, target)?;
    let mut request = format!("GET {slash}{path} HTTP/1.1\r\n");
    let mut has_host = false;
    for header in get.http_headers.iter().flatten() {
        has_host |= header.name.eq_ignore_ascii_case("host");
        request.extend([header.name.as_str(), ": ", &header.value, "\r\n"]);
    }
    if !has_host {
        request.extend(["Host: ", &host, ":", &port.to_string(), "\r\n"]);
    }
    request.push_str("User-Agent: kube-probe/1.32\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    let failed = |e: std::io::Error| format!("Get \"{url}\": {e}");
    let mut stream = dial(&host, port, target).await.map_err(failed)?;
    let answer = if get.scheme.as_deref() == Some("HTTPS") {
        let mut stream = super::tls::connect(stream).await.map_err(failed)?;
        exchange(&mut stream, &request).await
    } else {
        exchange(&mut stream, &request).await
    }
    .map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let status: Option<u16> = text.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => {
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
            let note = if body.is_empty() { String::new() } else { format!(": {body}") };
            Err(format!("HTTP probe failed with statuscode: {status}{note}"))
        }
        None => Err(format!("Get \"{url}\": malformed HTTP response")),
    }
}

async fn exchange<S>(stream: &mut S, request: &str) -> std::io::Result<Vec<u8>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    let mut part = [0u8; 512];
    while answer.len() < 4096 {
        match stream.read(&mut part).await {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if answer.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(answer)
}
