//! How answers look for people: aligned tables and plain words. Text from elsewhere (names, logs, errors of peers) is
//! shown without control characters, so that nobody far away writes on this terminal.

use serde_json::Value;
use std::time::Duration;

/// Prints rows as a table with a head; columns are as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |i: usize| {
        rows.iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count())
            .chain([head[i].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(head.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}

/// Text from elsewhere, safe for a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A string of a JSON object, `-` when absent.
pub fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::Null => "-".to_owned(),
        Value::String(s) => plain(s),
        other => other.to_string(),
    }
}

/// Bytes in a readable unit.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = n as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

/// A duration in at most two units.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{} ms", d.as_millis()),
        1..=59 => format!("{s}.{} s", d.subsec_millis() / 100),
        60..=3599 => format!("{} min {} s", s / 60, s % 60),
        3600..=86_399 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// How long ago a time in milliseconds since the epoch was.
pub fn ago(unix_ms: Option<u64>) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    match unix_ms {
        Some(t) if t > 0 => format!("{} ago", duration(now.saturating_sub(Duration::from_millis(t)))),
        _ => "-".to_owned(),
    }
}

/// The first characters of a key or id, for tables.
pub fn short(id: &str) -> String {
    if id.len() > 14 { format!("{}…", &id.chars().take(12).collect::<String>()) } else { id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_far_away_writes_on_this_terminal() {
        assert_eq!(plain("a\x1b[31mb\r\nc"), "a\u{fffd}[31mb\u{fffd}\nc");
    }

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(duration(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(duration(Duration::from_secs(3700)), "1 h 1 min");
    }
}
