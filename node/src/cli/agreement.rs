//! How far executors of a task agree, for people.

use super::output::plain;
use serde_json::Value;

/// Lines about the tasks of a run that more than one executor has done.
pub fn lines(view: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for t in view["tasks"].as_array().into_iter().flatten() {
        let a = &t["agreement"];
        let (Some(agreed), Some(dissent)) = (a["agreed"].as_array(), a["dissent"].as_array()) else {
            continue;
        };
        let id = plain(t["id"].as_str().unwrap_or_default());
        if !agreed.is_empty() {
            out.push(format!("task {id}: {} executor(s) have signed this result", agreed.len()));
        }
        for d in dissent {
            let (peer, says) =
                (d["peer"].as_str().unwrap_or_default(), d["says"].as_str().unwrap_or_default());
            out.push(format!("task {id}: DISAGREEMENT, {peer} says {}", plain(says)));
        }
        if a["has_evidence"].as_bool() == Some(true) {
            out.push(format!("task {id}: `runs fetch` writes the evidence; `receipt verify` reads it"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_agrees_is_counted_and_who_does_not_is_named() {
        let view = json!({"tasks": [
            {"id": "plain"},
            {"id": "a", "agreement": {"agreed": ["k1", "k2"], "dissent": [], "has_evidence": false}},
            {"id": "b", "agreement": {"agreed": ["k1", "k2"], "dissent": [{"peer": "k3", "says": "result x"}], "has_evidence": true}},
        ]});
        let said = lines(&view);
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(said[0], "task a: 2 executor(s) have signed this result");
        assert_eq!(said[2], "task b: DISAGREEMENT, k3 says result x");
    }
}
