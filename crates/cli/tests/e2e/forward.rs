//! `kubectl port-forward`, and what answers at its other end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::cluster::{Cluster, Failure};

const LIMIT: Duration = Duration::from_secs(10);

/// A forwarding that ends with this.
pub(crate) struct Forward {
    kubectl: Child,
    address: String,
}

impl Forward {
    /// To a port of a pod or of a service (`service/NAME`).
    pub(crate) fn start(cluster: &Cluster, namespace: &str, target: &str, port: u16) -> Result<Self, Failure> {
        let (kubectl, kubeconfig) = cluster.kubectl_and_config();
        let kubectl = Command::new(kubectl)
            .args(["port-forward", target, "-n", namespace, &format!(":{port}")])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("kubectl port-forward: {e}"))?;
        let mut forward = Self { kubectl, address: String::new() };
        let output = forward.kubectl.stdout.as_mut().ok_or("kubectl port-forward without output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map_err(|e| e.to_string())?;
        // "Forwarding from 127.0.0.1:40123 -> 3306"
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        forward.address = address.ok_or_else(|| format!("kubectl port-forward: {line:?}"))?.to_owned();
        Ok(forward)
    }

    fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(&self.address).map_err(|e| format!("{}: {e}", self.address))?;
        stream.set_read_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
        Ok(stream)
    }

    /// What is said first, unasked.
    pub(crate) fn greeting(&self) -> Result<String, Failure> {
        let mut packet = [0; 128];
        let count = self.connect()?.read(&mut packet).map_err(|e| format!("{}: {e}", self.address))?;
        Ok(String::from_utf8_lossy(&packet[..count]).into_owned())
    }

    /// The answer to `GET`, with its head.
    pub(crate) fn http(&self, path: &str) -> Result<String, Failure> {
        let mut stream = self.connect()?;
        let mut text = String::new();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut text))
            .map_err(|e| format!("GET {path}: {e}"))?;
        Ok(text)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
