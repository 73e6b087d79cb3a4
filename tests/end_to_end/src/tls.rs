//! TLS before a simulator, and a proxy that tunnels to it: what stands between the product and on-premises servers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use url::Url;

/// A certificate authority that no system trusts.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its certificate as PEM.
    #[must_use]
    pub fn write_to(&self, folder: &Path) -> PathBuf {
        let path = folder.join("private-ca.pem");
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }

    /// Puts TLS before the server at `plain`, with a certificate for 127.0.0.1.
    pub async fn before(&self, plain: &str) -> TlsServer {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let upstream = address_of(plain);
        let (address, task) = listen(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut client = acceptor.accept(stream).await?;
                copy_bidirectional(&mut client, &mut TcpStream::connect(upstream).await?).await?;
                Ok(())
            }
        })
        .await;
        TlsServer { address, task }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// A server behind TLS; gone when it is dropped.
pub struct TlsServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TlsServer {
    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A proxy that tunnels (`CONNECT`), and remembers where to.
pub struct Proxy {
    address: SocketAddr,
    tunnels: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A new one.
    pub async fn start() -> Self {
        let tunnels = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&tunnels);
        let (address, task) = listen(move |stream| tunnel(stream, Arc::clone(&seen))).await;
        Self { address, tunnels, task }
    }

    /// For `HTTPS_PROXY`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Host and port of each tunnel so far.
    #[must_use]
    pub fn tunnels(&self) -> Vec<String> {
        self.tunnels.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut client = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let target = target.unwrap_or_else(|| panic!("not a tunnel: {head}")).to_owned();
    seen.lock().unwrap().push(target.clone());
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Serves each connection on a port that was free. A client that breaks off is no news.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    (address, task)
}

fn address_of(url: &str) -> SocketAddr {
    let url = Url::parse(url).unwrap();
    url.socket_addrs(|| None).unwrap()[0]
}
