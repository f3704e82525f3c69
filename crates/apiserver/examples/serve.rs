//! Serves an API in memory on `http://127.0.0.1:PORT`, for replaying conformance scenarios:
//! `cargo run -p apiserver --example serve -- 18080`.

use apiserver::{Options, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).unwrap_or_else(|| "18080".to_owned()).parse()?;
    let server = Server::open(Options { ca: Some("-----BEGIN CERTIFICATE-----\n".to_owned()), ..Options::default() })?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://127.0.0.1:{port}");
    axum::serve(listener, server.router()).await?;
    Ok(())
}
