//! `remote-network dht …`: the DHT for people and scripts, through the running node.
//!
//! A key of one's own signs here, so it never goes to the node.

use super::args::{DhtCommand, DhtGet, DhtPut};
use super::output::{plain, text};
use super::remote::Shown;
use super::{Client, Failure};
use crate::keystore;
use bytes::Bytes;
use remote_network_core::dht::item::{self, VALUE_MAX};
use remote_network_core::id::{DhtId, Keypair};
use serde_json::{Value, json};
use sha1::Digest as _;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Runs one command.
pub async fn run(client: &Client, shown: Shown, command: DhtCommand) -> Result<(), Failure> {
    match command {
        DhtCommand::Get(get) => self::get(client, shown, &get).await,
        DhtCommand::Put(put) => self::put(client, shown, &put).await,
        DhtCommand::Announce { info_hash, port } => {
            let mut body = json!({"info_hash": hash(&info_hash)?.to_string()});
            if let Some(port) = port {
                body["port"] = json!(port);
            }
            let answer = client.post("/dht/announce", &body).await?;
            shown.value(&answer, |a| {
                println!("announced under {} at {} DHT nodes", text(a, "info_hash"), text(a, "stored"));
            });
            Ok(())
        }
        DhtCommand::Peers { info_hash } => {
            let answer =
                client.post("/dht/peers", &json!({"info_hash": hash(&info_hash)?.to_string()})).await?;
            shown.value(&answer, |a| {
                for peer in a["peers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    println!("{}", plain(peer));
                }
            });
            Ok(())
        }
        DhtCommand::Status => {
            let answer = client.get("/dht/status").await?;
            shown.value(&answer, show_status);
            Ok(())
        }
    }
}

async fn get(client: &Client, shown: Shown, get: &DhtGet) -> Result<(), Failure> {
    let body = match get.what.parse::<DhtId>() {
        Ok(_) if get.salt.is_some() => {
            return Err(
                Failure::usage("an immutable item has no salt").with_hint("name the key of a mutable one")
            );
        }
        Ok(target) => json!({"target": target.to_string()}),
        Err(_) => json!({"key": key_name(&get.what)?, "salt": get.salt.as_deref().unwrap_or_default()}),
    };
    let answer = client.post("/dht/get", &body).await?;
    if shown.json() {
        println!("{answer}");
        return Ok(());
    }
    // The value alone and exactly, so that it can be piped; a terminal gets no control characters of strangers.
    let value = unhex(answer["value"].as_str().unwrap_or_default());
    let mut out = std::io::stdout().lock();
    if std::io::IsTerminal::is_terminal(&out) {
        writeln!(out, "{}", plain(&String::from_utf8_lossy(&value)))?;
        if let Some(seq) = answer["seq"].as_u64() {
            eprintln!("seq {seq}, {} DHT nodes answered", text(&answer, "responded"));
        }
    } else {
        out.write_all(&value)?;
    }
    Ok(())
}

async fn put(client: &Client, shown: Shown, put: &DhtPut) -> Result<(), Failure> {
    let value = read_value(put)?;
    let mut body = json!({"value": hex(&value)});
    if let Some(salt) = &put.salt {
        body["salt"] = json!(salt);
    }
    if let Some(seq) = put.seq {
        body["seq"] = json!(seq);
    }
    if let Some(cas) = put.cas {
        body["cas"] = json!(cas);
    }
    match &put.key {
        Some(file) => sign(client, put, value, file, &mut body).await?,
        None if put.salt.is_none() && (put.seq.is_some() || put.cas.is_some()) => {
            return Err(Failure::usage("an immutable item has no versions").with_hint(
                "--salt NAME puts a mutable item under the node's key, --key FILE one under a key of yours",
            ));
        }
        None => {}
    }
    let answer = client.post("/dht/put", &body).await?;
    shown.value(&answer, |a| match a["seq"].as_u64() {
        Some(seq) => println!("{} seq {seq} stored at {} DHT nodes", text(a, "key"), text(a, "stored")),
        None => println!("{} stored at {} DHT nodes", text(a, "target"), text(a, "stored")),
    });
    Ok(())
}

/// Signs with a key from a file, on top of the newest version unless `seq` says otherwise.
async fn sign(
    client: &Client,
    put: &DhtPut,
    value: Vec<u8>,
    file: &Path,
    body: &mut Value,
) -> Result<(), Failure> {
    let keypair = read_key(file)?;
    let salt = put.salt.as_deref().unwrap_or_default();
    let seq = match put.seq {
        Some(seq) => seq,
        None => next_seq(client, &keypair, salt).await?,
    };
    let signed = item::sign(&keypair, salt.as_bytes(), seq, Bytes::from(value))
        .map_err(|e| Failure::usage(e.to_string()))?;
    body["key"] = json!(signed.key.to_string());
    body["seq"] = json!(seq);
    body["signature"] = json!(hex(&signed.signature.0));
    Ok(())
}

async fn next_seq(client: &Client, keypair: &Keypair, salt: &str) -> Result<u64, Failure> {
    let wanted = json!({"key": keypair.public().to_string(), "salt": salt});
    match client.find("/dht/get", &wanted).await? {
        Some(newest) => Ok(newest["seq"].as_u64().unwrap_or(0).saturating_add(1)),
        None => Ok(1),
    }
}

fn read_key(file: &Path) -> Result<Keypair, Failure> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(file).and_then(|f| f.take(1_024).read_to_end(&mut bytes));
    opened.map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
    keystore::import(&bytes).map_err(|e| {
        Failure::usage(format!("{}: {e}", file.display()))
            .with_hint("a key is 32 bytes or 64 hex digits; `remote-network key export` writes one")
    })
}

fn read_value(put: &DhtPut) -> Result<Vec<u8>, Failure> {
    let value = match put.value.as_str() {
        "-" => {
            let mut bytes = Vec::new();
            // One byte more than allowed shows that it is too much.
            std::io::stdin().take(VALUE_MAX as u64 + 1).read_to_end(&mut bytes)?;
            bytes
        }
        text => text.as_bytes().to_vec(),
    };
    if value.len() > VALUE_MAX {
        return Err(Failure::usage(format!("the value is longer than {VALUE_MAX} bytes"))
            .with_hint("the DHT is for short things; put a digest, and the thing elsewhere"));
    }
    Ok(value)
}

fn key_name(text: &str) -> Result<String, Failure> {
    use remote_network_core::id::PublicKey;
    let parsed = text.parse::<PublicKey>().or_else(|e| match <[u8; 32]>::try_from(&unhex(text)[..]) {
        Ok(raw) => PublicKey::from_slice(&raw),
        Err(_) => Err(e),
    });
    parsed.map(|key| key.to_string()).map_err(|e| {
        Failure::usage(format!("`{text}` names no item: {e}")).with_hint(
            "a mutable item is named by its key (key_… or 64 hex digits), an immutable one by 40 hex digits",
        )
    })
}

/// An info-hash, or the one of a topic's name.
fn hash(text: &str) -> Result<DhtId, Failure> {
    match text.strip_prefix("topic:") {
        Some(name) => Ok(DhtId(sha1::Sha1::digest(name.as_bytes()).into())),
        None => text.parse().map_err(|e| {
            Failure::usage(format!("`{text}` is no info-hash: {e}"))
                .with_hint("40 hex digits, or topic:NAME for the SHA-1 of a name")
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes of hex digits; empty if they are none.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[a, b]| u8::try_from(digit(*a)? << 4 | digit(*b)?).ok()).collect();
    bytes.filter(|_| rest.is_empty()).unwrap_or_default()
}

fn show_status(s: &Value) {
    let socket = if s["shared_socket"].as_bool() == Some(true) { " (QUIC's socket)" } else { "" };
    println!("backend    {}", text(s, "backend"));
    println!("socket     {}{socket}", text(s, "local"));
    for f in s["families"].as_array().into_iter().flatten() {
        println!("{:<9}  id {}, {} nodes in the table", text(f, "family"), text(f, "id"), text(f, "nodes"));
        if let Value::Object(_) = &f["observed"] {
            println!(
                "           seen as {} by {}",
                text(&f["observed"], "addr"),
                text(&f["observed"], "votes")
            );
        }
    }
    let presence = match s["read_only"].as_bool() {
        Some(true) => "read-only: nobody has shown yet that others can reach this node",
        Some(false) => "open: others may ask this node",
        None => "-",
    };
    println!("presence   {presence}");
    println!("keeps      {} values, {} peers for others", text(s, "kept_values"), text(s, "kept_peers"));
    println!("operations {} under way, {} waiting", text(s, "operations"), text(s, "operations_waiting"));
    for (reason, n) in s["refused"].as_object().into_iter().flatten() {
        println!("refused    {n} × {}", plain(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_hash_is_forty_digits_or_a_topic_s_name() {
        let topic = hash("topic:remote-network-mesh").unwrap();
        assert_eq!(topic.to_string(), "2894f26f3710bf6b65001d51c0445f81cd48be0a");
        assert_eq!(hash(&topic.to_string()).unwrap(), topic);
        assert!(hash("remote-network-mesh").unwrap_err().is_usage());
    }

    #[test]
    fn a_key_may_be_named_as_other_programs_name_it() {
        let key = Keypair::from_seed(&[1; 32]).public();
        assert_eq!(key_name(&key.to_string()).unwrap(), key.to_string());
        assert_eq!(key_name(&hex(key.as_bytes())).unwrap(), key.to_string());
        assert!(key_name("key_x").unwrap_err().is_usage());
    }
}
