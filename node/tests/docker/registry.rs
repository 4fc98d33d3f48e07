//! A registry on 127.0.0.1: one image of one layer, in the plain HTTP that engines take from there, and ways to be a bad one.

use ring::digest::{SHA256, digest};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// How it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// The layer ends before its end.
    Truncated,
    /// The layer is another than the manifest says.
    WrongLayer,
    /// The manifest is another than its digest says.
    WrongManifest,
    /// The layer is not there.
    NoLayer,
    /// The layer comes a byte at a time, and never to its end.
    Endless,
}

pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

pub struct Registry {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Mutex<Vec<u8>>,
    fault: Fault,
    open: AtomicUsize,
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Registry {
    /// Serves an image of one uncompressed layer, which says of itself what `config` does (JSON of an image's `config`).
    pub fn start(layer: Vec<u8>, config: &str, fault: Fault) -> Self {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[]}}"#,
            sha256(&layer)
        )
        .into_bytes();
        let manifest = Self::manifest_of(&config, &layer, "");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            layer,
            config,
            manifest: Mutex::new(manifest),
            fault,
            open: AtomicUsize::new(0),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { port, shared }
    }

    fn manifest_of(config: &[u8], layer: &[u8], note: &str) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":{},"digest":"{}"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":{},"digest":"{}"}}]}}{note}"#,
            config.len(),
            sha256(config),
            layer.len(),
            sha256(layer)
        )
        .into_bytes()
    }

    /// The digest that its tag means now.
    pub fn digest(&self) -> String {
        sha256(&self.shared.manifest.lock().unwrap())
    }

    /// The tag means another digest from now on, of the same image.
    pub fn move_tag(&self) {
        *self.shared.manifest.lock().unwrap() =
            Self::manifest_of(&self.shared.config, &self.shared.layer, "\n");
    }

    pub fn name(&self) -> String {
        format!("127.0.0.1:{}/test/tool", self.port)
    }

    /// Layers that are being sent at this moment.
    pub fn sending(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut line = String::new();
            while reader.read_line(&mut line)? > 2 {
                line.clear();
            }
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if !self.answer(&stream, method == "HEAD", path)? {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    fn answer(&self, mut to: &TcpStream, head: bool, path: &str) -> std::io::Result<bool> {
        let manifest = self.manifest.lock().unwrap().clone();
        let digest = sha256(&manifest);
        let (status, kind, body): (&str, &str, &[u8]) = if path == "/v2/" {
            ("200 OK", "application/json", b"{}")
        } else if path.ends_with("/manifests/1") || path.ends_with(&format!("/manifests/{digest}")) {
            ("200 OK", MANIFEST, &manifest)
        } else if path.ends_with(&format!("/blobs/{}", sha256(&self.config))) {
            ("200 OK", "application/octet-stream", &self.config)
        } else if path.ends_with(&format!("/blobs/{}", sha256(&self.layer))) && self.fault != Fault::NoLayer {
            ("200 OK", "application/octet-stream", &self.layer)
        } else {
            (
                "404 Not Found",
                "application/json",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            )
        };
        let is_layer = std::ptr::eq(body, self.layer.as_slice());
        let len = body.len();
        write!(
            to,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nDocker-Content-Digest: {digest}\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\r\n"
        )?;
        if head {
            return Ok(true);
        }
        match self.fault {
            Fault::WrongManifest if kind == MANIFEST => {
                let other: Vec<u8> = body.iter().map(|b| if *b == b'2' { b'3' } else { *b }).collect();
                to.write_all(&other)?;
            }
            Fault::Truncated if is_layer => {
                to.write_all(&body[..len / 2])?;
                return Ok(false);
            }
            Fault::WrongLayer if is_layer => {
                let other: Vec<u8> = body.iter().map(|b| b ^ 1).collect();
                to.write_all(&other)?;
            }
            Fault::Endless if is_layer => {
                self.open.fetch_add(1, Ordering::SeqCst);
                let sent = body[..len - 1].iter().try_for_each(|byte| {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    to.write_all(&[*byte])
                });
                self.open.fetch_sub(1, Ordering::SeqCst);
                return sent.map(|()| false);
            }
            _ => to.write_all(body)?,
        }
        Ok(true)
    }
}
