//! A verified receipt in words or JSON.

use super::output::{bytes, plain};
use crate::workflow_text::port_text;
use remote_network_core::job::quorum::Disagreement;
use remote_network_core::job::receipt::Report;
use remote_network_core::port::Program;
use serde_json::json;

/// Shows what a receipt proves.
pub fn show(as_json: bool, r: &Report) {
    if as_json {
        let outputs: Vec<_> = r
            .outputs
            .iter()
            .map(|o| json!({"port": port_text(&o.port), "digest": o.digest.to_string(), "len": o.len, "truncated": o.truncated}))
            .collect();
        let inputs: Vec<_> = r
            .inputs
            .iter()
            .map(|i| json!({"port": port_text(&i.port), "digest": i.digest.to_string(), "len": i.len}))
            .collect();
        println!(
            "{}",
            json!({
                "valid": true,
                "requester": r.requester.to_string(),
                "executor": r.executor.to_string(),
                "run": r.run.to_string(),
                "task": r.task,
                "attempt": r.fence,
                "service": r.service.to_string(),
                "program": program_text(&r.program),
                "engine": r.engine,
                "exit": {"class": format!("{:?}", r.exit.0).to_lowercase(), "code": r.exit.1},
                "inputs": inputs,
                "outputs": outputs,
                "usage": {"fuel": r.usage.fuel, "cpu_ns": r.usage.cpu_ns, "memory_bytes": r.usage.memory_bytes, "wall_ms": r.usage.wall_ms},
                "receipt_number": r.chain.0,
                "previous_receipt": r.chain.1.to_string(),
                "agreed": r.agreed.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "verdict": format!("{:?}", r.verdict.0).to_lowercase(),
            })
        );
        return;
    }
    println!("valid: task {} of run {}, attempt {}", plain(&r.task), r.run, r.fence);
    println!("  executor   {}", r.executor);
    println!("  requester  {} ({:?})", r.requester, r.verdict.0);
    println!("  service    {}", r.service);
    println!("  program    {}", program_text(&r.program));
    println!("  engine     {}", plain(&r.engine));
    println!("  exit       {:?}, code {}", r.exit.0, r.exit.1);
    for i in &r.inputs {
        println!("  input      {:<8} {}  {}", port_text(&i.port), i.digest, bytes(i.len));
    }
    for o in &r.outputs {
        let cut = if o.truncated { ", cut at its limit" } else { "" };
        println!("  output     {:<8} {}  {}{cut}", port_text(&o.port), o.digest, bytes(o.len));
    }
    println!(
        "  used       {} fuel, {} ms, {} of memory",
        r.usage.fuel,
        r.usage.wall_ms,
        bytes(r.usage.memory_bytes)
    );
    println!("  receipt    number {}, after {}", r.chain.0, r.chain.1);
    if !r.agreed.is_empty() {
        println!("  agreed     {} other executors have signed the same result:", r.agreed.len());
        for peer in &r.agreed {
            println!("             {peer}");
        }
    }
}

/// Shows what executors that disagree have signed.
pub fn show_evidence(as_json: bool, d: &Disagreement) {
    if as_json {
        let results: Vec<_> = d
            .results
            .iter()
            .map(|(digest, who, says)| {
                let who: Vec<String> = who.iter().map(ToString::to_string).collect();
                json!({"result": digest.to_string(), "executors": who, "says": says})
            })
            .collect();
        println!(
            "{}",
            json!({
                "valid": true,
                "disagreement": {
                    "requester": d.requester.to_string(),
                    "run": d.run.to_string(),
                    "task": d.task,
                    "results": results,
                },
            })
        );
        return;
    }
    println!("valid: executors disagree about task {} of run {}", plain(&d.task), d.run);
    println!("  requester  {}", d.requester);
    for (_, who, says) in &d.results {
        println!("  {}", plain(says));
        for peer in who {
            println!("    signed by {peer}");
        }
    }
    println!("  At least all but one of these results are wrong; which one is right this file does not say.");
}

/// What ran: a module by its digest, or an image by its id.
fn program_text(program: &Program) -> String {
    match program {
        Program::Wasm(module) => format!("module {module}"),
        Program::Image(image) => format!("image {}", image.id_text()),
        Program::Native(exe) => format!("program {} for {}", exe.object, exe.target),
        Program::Data(dataset) => format!("dataset {}", dataset.manifest),
    }
}
