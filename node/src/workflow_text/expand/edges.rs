//! Edges of what is written out.

use super::super::tree::{Raw, Tree};
use super::fill::Filler;
use super::item_id;
use super::lists::{List, Lists};
use remote_network_core::limits::WORKFLOW_EDGES_MAX;

/// The edges written out, and for each its place in the list as written. What is no edge is left to the reader.
pub(super) fn all(filler: &mut Filler<'_>, tree: &Tree, lists: &Lists) -> (Tree, Vec<usize>) {
    let Raw::Seq(items) = tree.raw() else { return (tree.clone(), Vec::new()) };
    let (mut edges, mut origins) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
    for (at, item) in items.iter().enumerate() {
        let place = format!("edges[{at}]");
        let made = match item.raw() {
            Raw::Text(text) => one(text, lists),
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Seq(_) | Raw::Map(_) => Ok(None),
        };
        match made {
            Ok(None) => {
                edges.push(item.clone());
                origins.push(at);
            }
            Ok(Some((n, edge))) => {
                if edges.len() + n > WORKFLOW_EDGES_MAX {
                    let reason = format!(
                        "more than {WORKFLOW_EDGES_MAX} edges when lists are written out; join some of the items first"
                    );
                    filler.reader.say(&place, item.location(), reason);
                    return (tree.clone(), Vec::new());
                }
                for k in 0..n {
                    let text = edge(k);
                    if !filler.room(&place, item, text.len()) {
                        return (tree.clone(), Vec::new());
                    }
                    edges.push(item.with(Raw::Text(text)));
                    origins.push(at);
                }
            }
            Err(reason) => filler.reader.say(&place, item.location(), reason),
        }
    }
    (tree.with(Raw::Seq(edges)), origins)
}

type Written = (usize, Box<dyn Fn(usize) -> String>);

/// How many edges it becomes, and each of them; `None`: it stays as it is.
fn one(text: &str, lists: &Lists) -> Result<Option<Written>, String> {
    let Some((from, to)) = text.split_once("->") else { return Ok(None) };
    let (Some((from, out)), Some((to, into))) = (from.trim().split_once('.'), to.trim().split_once('.'))
    else {
        return Ok(None);
    };
    let (a, b) = (lists.of(from), lists.of(to));
    let ends = [from, out, to, into].map(str::to_owned);
    let [from, out, to, into] = ends;
    let len = |list: Option<&List>| list.map_or(1, |l| l.items.len());
    let written: Written = match (a, b) {
        (None, None) => return Ok(None),
        (Some(a), None) => {
            (a.items.len(), Box::new(move |k| format!("{}.{out} -> {to}.{into}", item_id(&from, k))))
        }
        (None, Some(b)) => {
            (b.items.len(), Box::new(move |k| format!("{from}.{out} -> {}.{into}", item_id(&to, k))))
        }
        (Some(a), Some(b)) if a.same == b.same => (
            len(Some(a)),
            Box::new(move |k| format!("{}.{out} -> {}.{into}", item_id(&from, k), item_id(&to, k))),
        ),
        // A source hands all of its files to each task that is mapped over something else.
        (Some(a), Some(b)) if a.source.is_some() => {
            let files = a.items.len();
            let edge = move |k: usize| {
                format!("{}.{out} -> {}.{into}", item_id(&from, k % files), item_id(&to, k / files))
            };
            (files * b.items.len(), Box::new(edge))
        }
        (Some(a), Some(b)) => {
            return Err(format!(
                "`{from}` and `{to}` are mapped over different lists ({} and {} items): map both over the same, or put a task between them",
                a.items.len(),
                b.items.len()
            ));
        }
    };
    Ok(Some(written))
}
