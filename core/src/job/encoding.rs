//! The words of jobs in canonical bencode: ports, exits, usage, limits, text.
//!
//! One place, so that an order, a receipt, a plan and a journal record spell the same thing the same way; a digest over
//! any of them depends on it.

use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, PublicKey};
use crate::port::{EngineLimits, EngineOutput, ExitClass, Port, Usage};
use crate::service::valid_name;

/// The text of a port: `stdin`, `stdout`, `stderr`, or `/` and the mount's name (a mount may well be called `stdin`).
pub fn port_text(port: &Port) -> String {
    match port {
        Port::Stdin => "stdin".to_owned(),
        Port::Stdout => "stdout".to_owned(),
        Port::Stderr => "stderr".to_owned(),
        Port::Mount(name) => format!("/{name}"),
    }
}

/// A port as a value.
pub fn port_value(port: &Port) -> Value {
    Value::from(port_text(port).as_str())
}

/// Reads what [`port_value`] wrote.
pub fn port_of(value: &Value) -> Result<Port, DecodeError> {
    match value.as_bytes() {
        Some(b"stdin") => Ok(Port::Stdin),
        Some(b"stdout") => Ok(Port::Stdout),
        Some(b"stderr") => Ok(Port::Stderr),
        Some(other) => std::str::from_utf8(other)
            .ok()
            .and_then(|t| t.strip_prefix('/'))
            .filter(|name| valid_name(name))
            .map(|name| Port::Mount(name.to_owned()))
            .ok_or_else(|| DecodeError::invalid("port", "no port is called so")),
        None => Err(DecodeError::invalid("port", "not a byte string")),
    }
}

/// The number of an exit class on the wire.
pub const fn class_number(class: ExitClass) -> u64 {
    match class {
        ExitClass::Success => 0,
        ExitClass::User => 1,
        ExitClass::Resource => 2,
        ExitClass::Permanent => 3,
        ExitClass::Infra => 4,
        ExitClass::Cancelled => 5,
    }
}

/// Reads what [`class_number`] wrote.
pub fn class_of(number: u64) -> Result<ExitClass, DecodeError> {
    Ok(match number {
        0 => ExitClass::Success,
        1 => ExitClass::User,
        2 => ExitClass::Resource,
        3 => ExitClass::Permanent,
        4 => ExitClass::Infra,
        5 => ExitClass::Cancelled,
        number => return Err(DecodeError::Unknown { what: "exit class", number }),
    })
}

/// Usage as a list of four numbers.
pub fn usage_value(u: &Usage) -> Value {
    vec![u.cpu_ns.into(), u.fuel.into(), u.memory_bytes.into(), u.wall_ms.into()].into()
}

/// Reads what [`usage_value`] wrote.
pub fn usage_of(d: &Dict, key: &'static str) -> Result<Usage, DecodeError> {
    let [cpu_ns, fuel, memory_bytes, wall_ms] = numbers(d, key)?;
    Ok(Usage { cpu_ns, fuel, memory_bytes, wall_ms })
}

/// Limits as a list of three numbers.
pub fn limits_value(l: &EngineLimits) -> Value {
    vec![l.memory_bytes.into(), l.time_ms.into(), l.output_bytes.into()].into()
}

/// Reads what [`limits_value`] wrote.
pub fn limits_of(d: &Dict, key: &'static str) -> Result<EngineLimits, DecodeError> {
    let [memory_bytes, time_ms, output_bytes] = numbers(d, key)?;
    Ok(EngineLimits { memory_bytes, time_ms, output_bytes })
}

/// A sealed output.
pub fn output_value(o: &EngineOutput) -> Value {
    Dict::new()
        .with("cut", u64::from(o.truncated))
        .with("d", &o.digest)
        .with("len", o.len)
        .with("p", port_value(&o.port))
        .into()
}

/// Reads what [`output_value`] wrote.
pub fn output_of(value: &Value) -> Result<EngineOutput, DecodeError> {
    let d = dict_of(value, "out")?;
    Ok(EngineOutput {
        port: port_of(d.need("p")?)?,
        digest: d.digest("d")?,
        len: d.u64("len")?,
        truncated: d.flag("cut")?,
    })
}

/// A dictionary inside a list.
pub fn dict_of<'a>(value: &'a Value, key: &'static str) -> Result<&'a Dict, DecodeError> {
    match value {
        Value::Dict(d) => Ok(d),
        Value::Int(_) | Value::Bytes(_) | Value::List(_) => {
            Err(DecodeError::invalid(key, "not a dictionary"))
        }
    }
}

/// A signed number of at most 32 bits: an exit code.
pub fn code_of(d: &Dict, key: &'static str) -> Result<i32, DecodeError> {
    match d.need(key)? {
        Value::Int(n) => i32::try_from(*n).map_err(|_| DecodeError::invalid(key, "larger than 32 bits")),
        Value::Bytes(_) | Value::List(_) | Value::Dict(_) => Err(DecodeError::invalid(key, "not an integer")),
    }
}

/// Free text, control characters allowed: an argument may well hold a newline. No NUL, which no process could take.
pub fn string_of(value: &Value, key: &'static str, max: usize) -> Result<String, DecodeError> {
    let bytes = value.as_bytes().ok_or_else(|| DecodeError::invalid(key, "not a byte string"))?;
    if bytes.len() > max {
        return Err(DecodeError::invalid(key, format!("{} bytes, at most {max} allowed", bytes.len())));
    }
    if bytes.contains(&0) {
        return Err(DecodeError::invalid(key, "holds a NUL byte"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::invalid(key, "not UTF-8"))
}

/// A list of texts.
pub fn strings_of(
    d: &Dict,
    key: &'static str,
    count_max: usize,
    bytes_max: usize,
) -> Result<Vec<String>, DecodeError> {
    d.list(key, count_max)?.iter().map(|v| string_of(v, key, bytes_max)).collect()
}

/// A list of texts as a value.
pub fn strings_value<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Value {
    items.into_iter().map(|s| Value::from(s.as_ref())).collect::<Vec<_>>().into()
}

/// A list of ports.
pub fn ports_of(d: &Dict, key: &'static str, max: usize) -> Result<Vec<Port>, DecodeError> {
    d.list(key, max)?.iter().map(port_of).collect()
}

/// A list of ports as a value.
pub fn ports_value(ports: &[Port]) -> Value {
    ports.iter().map(port_value).collect::<Vec<_>>().into()
}

/// A list of keys.
pub fn keys_of(d: &Dict, key: &'static str, max: usize) -> Result<Vec<PublicKey>, DecodeError> {
    d.list(key, max)?
        .iter()
        .map(|v| {
            let bytes = v.as_bytes().ok_or_else(|| DecodeError::invalid(key, "not a byte string"))?;
            PublicKey::from_slice(bytes).map_err(|e| DecodeError::invalid(key, e.to_string()))
        })
        .collect()
}

/// A list of digests.
pub fn digests_of(d: &Dict, key: &'static str, max: usize) -> Result<Vec<Digest>, DecodeError> {
    d.list(key, max)?
        .iter()
        .map(|v| {
            let bytes = v.as_bytes().ok_or_else(|| DecodeError::invalid(key, "not a byte string"))?;
            Digest::from_slice(bytes).map_err(|e| DecodeError::invalid(key, e.to_string()))
        })
        .collect()
}

fn numbers<const N: usize>(d: &Dict, key: &'static str) -> Result<[u64; N], DecodeError> {
    let mut out = [0u64; N];
    let items = d.list(key, N)?;
    if items.len() != N {
        return Err(DecodeError::invalid(key, format!("{} numbers, expected {N}", items.len())));
    }
    for (slot, v) in out.iter_mut().zip(items) {
        *slot = v.as_u64().ok_or_else(|| DecodeError::invalid(key, "not a non-negative integer"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_named_like_a_stream_stays_a_mount() {
        for port in [Port::Stdin, Port::Stdout, Port::Stderr, Port::Mount("stdin".into())] {
            assert_eq!(port_of(&port_value(&port)), Ok(port));
        }
        assert!(port_of(&Value::from("/../etc")).is_err());
        assert!(port_of(&Value::from("logs")).is_err());
    }

    #[test]
    fn every_exit_class_survives_its_number() {
        for n in 0..6 {
            assert_eq!(class_of(n).map(class_number), Ok(n));
        }
        assert!(class_of(6).is_err());
    }
}
