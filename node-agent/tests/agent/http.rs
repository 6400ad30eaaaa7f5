//! The agent's endpoints, asked as a kubelet and a Prometheus do.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Status and body of an answer; 0 when nobody listens, or ends in the middle of it.
pub(crate) async fn get(base: &str, path: &str) -> (u16, String) {
    let address = base.strip_prefix("http://").unwrap();
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return (0, String::new());
    };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let mut answer = String::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    let ended = exchange.await;
    let Some((head, body)) = answer.split_once("\r\n\r\n").filter(|_| ended.is_ok()) else {
        return (0, answer);
    };
    let code = head.split_whitespace().nth(1).unwrap();
    (code.parse().unwrap(), body.to_owned())
}
