//! From a tree to a workflow: every rule of the text form, all problems at once.

mod quorum;
mod rules;

use super::expand::Expanded;
use super::keys::{self, Key};
use super::tree::{Raw, Tree, location};
use super::{Location, NAME_BYTES_MAX, PROBLEMS_MAX, ParsedNode, ParsedWorkflow, Problem, SourceItem};
use remote_network_core::id::PublicKey;
use remote_network_core::job::workflow::{Edge, End, MAP_ITEMS_MAX, ObjectRef, TaskSpec};
use remote_network_core::port::Port;
use remote_network_core::service::valid_name;
use std::collections::{BTreeMap, BTreeSet};

/// How far off a word may be for a suggestion (normalised Damerau–Levenshtein).
const SIMILAR_ENOUGH: f64 = 0.6;

/// Reads a workflow.
pub(super) fn workflow(expanded: Expanded) -> Result<ParsedWorkflow, Vec<Problem>> {
    let Expanded { tree, edges, mapped } = expanded;
    let mut reader = Reader { edge_origins: edges, mapped, ..Reader::default() };
    let parsed = reader.workflow(&tree);
    match parsed {
        Some(mut parsed) if reader.problems.is_empty() => {
            parsed.locations = reader.locations;
            parsed.edge_origins = reader.edge_origins;
            Ok(parsed)
        }
        _ => Err(reader.problems()),
    }
}

#[derive(Default)]
pub(super) struct Reader {
    problems: Vec<Problem>,
    locations: BTreeMap<String, Location>,
    /// For each edge its place in the list as written; nothing: as it is.
    edge_origins: Vec<usize>,
    /// Nodes that were written out over lists.
    mapped: BTreeSet<String>,
    /// What was said of the first of several items, and is not said of the others again.
    said: BTreeSet<(String, String)>,
}

/// A mapping's values by key, with where each key stands.
pub(super) type Fields<'t> = BTreeMap<&'t str, &'t Tree>;

impl Reader {
    fn workflow(&mut self, tree: &Tree) -> Option<ParsedWorkflow> {
        let fields = self.fields("", tree, keys::WORKFLOW)?;
        let name = match fields.get("name") {
            Some(t) => self.text("name", t)?,
            None => {
                self.say(
                    "name",
                    tree.location(),
                    "is missing; give the workflow a name: `name: my-workflow`",
                );
                return None;
            }
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            self.say("name", None, format!("must have 1 to {NAME_BYTES_MAX} bytes"));
        }
        let nodes = match fields.get("nodes") {
            Some(t) => self.nodes(t),
            None => {
                self.say("nodes", tree.location(), "is missing; a workflow needs at least one task");
                Vec::new()
            }
        };
        let edges = match fields.get("edges") {
            Some(t) => self.edges(t, &nodes),
            None => Vec::new(),
        };
        let rules = self.run_rules(&fields);
        let (locations, edge_origins) = (BTreeMap::new(), Vec::new());
        Some(ParsedWorkflow { name, nodes, edges, rules, locations, edge_origins })
    }

    fn nodes(&mut self, tree: &Tree) -> Vec<(String, ParsedNode)> {
        let Raw::Map(entries) = tree.raw() else {
            self.wrong("nodes", tree, "a mapping from names to nodes");
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        let mut nodes = Vec::with_capacity(entries.len().min(1_000));
        for (key, value) in entries {
            let id = key.value.as_str();
            let place = format!("nodes.{id}");
            self.note(&place, location(key.referenced));
            if !valid_node_id(id) {
                self.say(
                    &place,
                    None,
                    format!("a node's name has 1 to {NAME_BYTES_MAX} letters, digits, `-` or `_`"),
                );
            }
            if !seen.insert(id) {
                self.say(&place, location(key.referenced), "is defined twice; names of nodes are unique");
            }
            if let Some(node) = self.node(&place, value) {
                nodes.push((id.to_owned(), node));
            }
        }
        nodes
    }

    fn node(&mut self, place: &str, tree: &Tree) -> Option<ParsedNode> {
        let fields = self.fields(place, tree, keys::NODE)?;
        let mut kinds = fields.into_iter();
        let (Some((kind, value)), None) = (kinds.next(), kinds.next()) else {
            self.say(place, None, "must be exactly one of `source`, `task` and `sink`");
            return None;
        };
        let place = format!("{place}.{kind}");
        match kind {
            "source" => self.source(&place, value).map(ParsedNode::Source),
            "task" => self.task(&place, value).map(ParsedNode::Task),
            _ => {
                if !matches!(value.raw(), Raw::Null) {
                    self.fields(&place, value, &[])?;
                }
                Some(ParsedNode::Sink)
            }
        }
    }

    fn source(&mut self, place: &str, tree: &Tree) -> Option<Vec<SourceItem>> {
        let fields = self.fields(place, tree, keys::SOURCE)?;
        let mut fields = fields.into_iter();
        let (Some((kind, value)), None) = (fields.next(), fields.next()) else {
            self.say(place, None, "must have exactly one of `files`, `text` and `objects`");
            return None;
        };
        let place = format!("{place}.{kind}");
        self.note(&place, value.location());
        match kind {
            "text" => Some(vec![SourceItem::Text(self.text(&place, value)?)]),
            "files" => {
                let files = self.texts(&place, value)?;
                if files.iter().any(String::is_empty) {
                    self.say(&place, None, "has an empty file name");
                }
                Some(files.into_iter().map(SourceItem::File).collect())
            }
            _ => {
                let items = self.items(&place, value)?;
                Some(items.into_iter().filter_map(|(at, t)| self.object(&at, t)).collect())
            }
        }
    }

    fn object(&mut self, place: &str, tree: &Tree) -> Option<SourceItem> {
        let fields = self.fields(place, tree, keys::OBJECT)?;
        let (Some(digest), Some(len)) = (fields.get("digest"), fields.get("len")) else {
            self.say(place, None, "needs `digest` (64 hex digits) and `len` (bytes)");
            return None;
        };
        let text = self.text(&format!("{place}.digest"), digest)?;
        let len = self.number(&format!("{place}.len"), len, u64::MAX)?;
        match text.parse() {
            Ok(digest) => Some(SourceItem::Object(ObjectRef { digest, len })),
            Err(e) => {
                self.say(&format!("{place}.digest"), digest.location(), format!("is no digest: {e}"));
                None
            }
        }
    }

    fn task(&mut self, place: &str, tree: &Tree) -> Option<TaskSpec> {
        let fields = self.fields(place, tree, keys::TASK)?;
        let mut task = TaskSpec::default();
        match fields.get("service") {
            Some(t) => {
                let at = format!("{place}.service");
                task.service = self.text(&at, t)?;
                if !valid_name(&task.service) {
                    self.say(
                        &at,
                        None,
                        "is no service: its name (a-z, 0-9, `-`, `_`, `.`) or its id (64 hex digits) belongs here",
                    );
                }
            }
            None => self.say(place, None, "needs `service`: the name or the id of the service to run"),
        }
        if let Some(t) = fields.get("peer") {
            task.peers = self.peers(&format!("{place}.peer"), t);
        }
        if let Some(t) = fields.get("args") {
            task.args = self.texts(&format!("{place}.args"), t)?;
        }
        if let Some(t) = fields.get("env") {
            task.env = self.env(&format!("{place}.env"), t)?;
        }
        if let Some(t) = fields.get("retries") {
            let n = self.number(&format!("{place}.retries"), t, 100)?;
            task.retries = u32::try_from(n).unwrap_or(u32::MAX);
        }
        if let Some(t) = fields.get("timeout") {
            task.timeout_ms = self.duration_ms(&format!("{place}.timeout"), t);
        }
        if let Some(t) = fields.get("place") {
            task.place = super::place::read(self, &format!("{place}.place"), t)?;
        }
        self.task_rules(place, &fields, &mut task);
        self.agreement(place, &fields, &mut task);
        Some(task)
    }

    fn peers(&mut self, place: &str, tree: &Tree) -> Vec<PublicKey> {
        let names = match tree.raw() {
            Raw::Seq(_) => self.texts(place, tree).unwrap_or_default(),
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Text(_) | Raw::Map(_) => {
                self.text(place, tree).into_iter().collect()
            }
        };
        let mut peers = Vec::with_capacity(names.len());
        for name in names {
            match name.parse() {
                Ok(key) => peers.push(key),
                Err(e) => self.say(place, tree.location(), format!("`{}` is no public key: {e}", cut(&name))),
            }
        }
        peers
    }

    fn env(&mut self, place: &str, tree: &Tree) -> Option<BTreeMap<String, String>> {
        let Raw::Map(entries) = tree.raw() else {
            self.wrong(place, tree, "a mapping from names to values");
            return None;
        };
        let mut env = BTreeMap::new();
        for (key, value) in entries {
            let at = format!("{place}.{}", cut(&key.value));
            if key.value.is_empty() || key.value.contains(['=', '\0']) {
                self.say(&at, location(key.referenced), "a variable's name is not empty and has no `=`");
            }
            let value = self.scalar(&at, value)?;
            if env.insert(key.value.clone(), value).is_some() {
                self.say(&at, location(key.referenced), "is set twice");
            }
        }
        Some(env)
    }

    fn edges(&mut self, tree: &Tree, nodes: &[(String, ParsedNode)]) -> Vec<Edge> {
        let Raw::Seq(items) = tree.raw() else {
            self.wrong("edges", tree, "a list");
            return Vec::new();
        };
        let kinds: BTreeMap<&str, &ParsedNode> = nodes.iter().map(|(id, n)| (id.as_str(), n)).collect();
        let mut edges = Vec::with_capacity(items.len().min(10_000));
        let mut wrong = None;
        for (i, item) in items.iter().enumerate() {
            let origin = self.edge_origins.get(i).copied().unwrap_or(i);
            if wrong == Some(origin) {
                continue;
            }
            let place = format!("edges[{origin}]");
            self.note(&place, item.location());
            let Some(text) = self.text(&place, item) else { continue };
            let Some((from, to)) = text.split_once("->") else {
                self.say(&place, item.location(), "an edge is written `node.port -> node.port`");
                continue;
            };
            let from = self.end(&place, item, from.trim(), Side::From, &kinds);
            let to = self.end(&place, item, to.trim(), Side::To, &kinds);
            match (from, to) {
                (Some(from), Some(to)) => edges.push(Edge { from, to }),
                (None, _) | (_, None) => wrong = Some(origin),
            }
        }
        edges
    }

    fn end(
        &mut self,
        place: &str,
        tree: &Tree,
        text: &str,
        side: Side,
        nodes: &BTreeMap<&str, &ParsedNode>,
    ) -> Option<End> {
        let at = tree.location();
        let Some((id, port)) = text.split_once('.') else {
            self.say(place, at, format!("`{}` names no port; write `node.port`", cut(text)));
            return None;
        };
        let Some(node) = nodes.get(id) else {
            let hint = suggestion(id, nodes.keys().copied());
            self.say(place, at, format!("there is no node `{}`{hint}", cut(id)));
            return None;
        };
        match port_of(node, port, side) {
            Ok(port) => Some(End { node: id.to_owned(), port }),
            Err(reason) => {
                self.say(place, at, format!("`{}.{}`: {reason}", cut(id), cut(port)));
                None
            }
        }
    }

    // ------------------------------------------------------------------------------ values

    pub(super) fn fields<'t>(&mut self, place: &str, tree: &'t Tree, known: &[Key]) -> Option<Fields<'t>> {
        let Raw::Map(entries) = tree.raw() else {
            self.wrong(place, tree, "a mapping");
            return None;
        };
        let mut fields = Fields::new();
        for (key, value) in entries {
            let at =
                if place.is_empty() { key.value.clone() } else { format!("{place}.{}", cut(&key.value)) };
            self.note(&at, location(key.referenced));
            if !known.iter().any(|k| k.name == key.value) {
                let hint = suggestion(&key.value, known.iter().map(|k| k.name));
                self.say(&at, location(key.referenced), format!("is not known here{hint}"));
            } else if fields.insert(&key.value, value).is_some() {
                self.say(&at, location(key.referenced), "is written twice");
            }
        }
        Some(fields)
    }

    pub(super) fn items<'t>(&mut self, place: &str, tree: &'t Tree) -> Option<Vec<(String, &'t Tree)>> {
        let Raw::Seq(items) = tree.raw() else {
            self.wrong(place, tree, "a list");
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let at = format!("{place}[{i}]");
            self.note(&at, item.location());
            out.push((at, item));
        }
        Some(out)
    }

    pub(super) fn texts(&mut self, place: &str, tree: &Tree) -> Option<Vec<String>> {
        let items = self.items(place, tree)?;
        items.into_iter().map(|(at, t)| self.scalar(&at, t)).collect()
    }

    pub(super) fn text(&mut self, place: &str, tree: &Tree) -> Option<String> {
        match tree.raw() {
            Raw::Text(text) => Some(text.clone()),
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Seq(_) | Raw::Map(_) => {
                self.wrong(place, tree, "text");
                None
            }
        }
    }

    /// Text, or what has only one spelling. A fraction has several (`1.0`, `1.00`), so it must be quoted.
    pub(super) fn scalar(&mut self, place: &str, tree: &Tree) -> Option<String> {
        match tree.raw() {
            Raw::Text(text) => Some(text.clone()),
            Raw::Int(n) => Some(n.to_string()),
            Raw::Bool(b) => Some(b.to_string()),
            Raw::Float(_) | Raw::Null | Raw::Seq(_) | Raw::Map(_) => {
                self.wrong(place, tree, "text (put it in quotes)");
                None
            }
        }
    }

    pub(super) fn number(&mut self, place: &str, tree: &Tree, max: u64) -> Option<u64> {
        let found = match tree.raw() {
            Raw::Int(n) => u64::try_from(*n).ok().filter(|n| *n <= max),
            Raw::Null | Raw::Bool(_) | Raw::Float(_) | Raw::Text(_) | Raw::Seq(_) | Raw::Map(_) => None,
        };
        if found.is_none() {
            self.say(place, tree.location(), format!("must be a whole number from 0 to {max}"));
        }
        found
    }

    fn duration_ms(&mut self, place: &str, tree: &Tree) -> Option<u64> {
        let found = match tree.raw() {
            Raw::Text(text) => parse_duration_ms(text),
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Seq(_) | Raw::Map(_) => None,
        };
        if found.is_none() {
            self.say(place, tree.location(), "must be a time with its unit: `500ms`, `30s`, `10m` or `2h`");
        }
        found
    }

    pub(super) fn wrong(&mut self, place: &str, tree: &Tree, expected: &str) {
        self.say(place, tree.location(), format!("must be {expected}, found {}", tree.raw().kind()));
    }

    pub(super) fn note(&mut self, place: &str, at: Option<Location>) {
        if let Some(at) = at {
            self.locations.entry(place.to_owned()).or_insert(at);
        }
    }

    pub(super) fn say(&mut self, place: &str, at: Option<Location>, reason: impl Into<String>) {
        let reason = reason.into();
        if let Some(origin) = self.origin(place)
            && !self.said.insert((origin, reason.clone()))
        {
            return;
        }
        if self.problems.len() < PROBLEMS_MAX {
            let location = at.or_else(|| self.locations.get(place).copied());
            self.problems.push(Problem { place: place.to_owned(), location, reason });
        }
    }

    /// The place in the text as written, of a place in an item's node.
    fn origin(&self, place: &str) -> Option<String> {
        let (id, behind) = place.strip_prefix("nodes.")?.split_once('[')?;
        let (_, rest) = behind.split_once(']')?;
        self.mapped.contains(id).then(|| format!("nodes.{id}{rest}"))
    }

    pub(super) const fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Everything that was said.
    pub(super) fn problems(self) -> Vec<Problem> {
        self.problems
    }
}

#[derive(Clone, Copy)]
enum Side {
    From,
    To,
}

/// The port `text` of `node`, on its side of an edge.
fn port_of(node: &ParsedNode, text: &str, side: Side) -> Result<Port, String> {
    match (node, side) {
        (ParsedNode::Source(_), Side::From) if text == "out" => Ok(Port::Stdout),
        (ParsedNode::Source(_), Side::From) => Err("a source has only the port `out`".into()),
        (ParsedNode::Source(_), Side::To) => Err("nothing flows into a source".into()),
        (ParsedNode::Sink, Side::To) if text == "in" => Ok(Port::Stdin),
        (ParsedNode::Sink, Side::To) => Err("a sink has only the port `in`".into()),
        (ParsedNode::Sink, Side::From) => Err("nothing flows out of a sink".into()),
        (ParsedNode::Task(_), Side::From) => match text {
            "stdout" => Ok(Port::Stdout),
            "stderr" => Ok(Port::Stderr),
            "stdin" => Err("`stdin` takes data; did you mean `stdout`?".into()),
            mount => mount_port(mount),
        },
        (ParsedNode::Task(_), Side::To) => match text {
            "stdin" => Ok(Port::Stdin),
            "stdout" | "stderr" => Err(format!("`{text}` gives data; did you mean `stdin`?")),
            mount => mount_port(mount),
        },
    }
}

fn mount_port(name: &str) -> Result<Port, String> {
    if valid_name(name) && !name.starts_with('.') {
        Ok(Port::Mount(name.to_owned()))
    } else {
        Err("a port is `stdin`, `stdout`, `stderr` or the name of a mount".into())
    }
}

fn valid_node_id(id: &str) -> bool {
    let (name, item) = id.split_once('[').map_or((id, None), |(name, rest)| (name, Some(rest)));
    let number = item.map(|rest| {
        rest.strip_suffix(']').and_then(|n| n.parse::<usize>().ok().filter(|k| k.to_string() == n))
    });
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && number.is_none_or(|n| n.is_some_and(|n| n < MAP_ITEMS_MAX))
}

fn parse_duration_ms(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|ms| *ms > 0)
}

/// "; did you mean `…`?", or what there is when there is little, or nothing.
pub(super) fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.take(1_000).collect();
    let word = cut(word);
    let best = known
        .iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(word, k), *k))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score >= SIMILAR_ENOUGH);
    match best {
        Some((_, k)) => format!("; did you mean `{k}`?"),
        None if known.is_empty() => String::new(),
        None if known.len() <= 8 => format!("; there are: {}", known.join(", ")),
        None => String::new(),
    }
}

/// At most 80 characters of a word from outside, so that an error stays readable.
pub(super) fn cut(word: &str) -> &str {
    match word.char_indices().nth(80) {
        Some((end, _)) => &word[..end],
        None => word,
    }
}
