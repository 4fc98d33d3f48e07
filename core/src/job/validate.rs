//! Validation: everything that is wrong with a workflow, at once, each with its place and how to mend it.
//!
//! Nothing runs before a workflow compiles (SPEC 7.2). The check is pure: workflow and catalogues in, a [`Plan`] or all
//! problems out. One kind of problem may mend itself: a task names a peer whose catalogue is not here yet. Such
//! [`Findings`] are `curable` by meeting those peers, and the requester waits for them a while.

use super::order::TASK_TEXT_BYTES_MAX;
use super::placement;
use super::plan::{
    CANDIDATES_MAX, InputFrom, PLAN_BYTES_MAX, Plan, PlannedInput, PlannedSink, PlannedTask, RETRIES_MAX,
    WORKFLOW_NAME_MAX, encode_workflow, workflow_digest,
};
use super::workflow::{Edge, End, NodeKind, Problem, TaskSpec, Workflow, valid_node_id};
use crate::id::{Digest, PublicKey};
use crate::limits::{
    OBJECT_BYTES_MAX, TASK_ARG_BYTES_MAX, TASK_ARGS_MAX, TASK_INPUTS_MAX, WORKFLOW_EDGES_MAX,
    WORKFLOW_NODES_MAX, WORKFLOW_RESULTS_MAX, WORKFLOW_TASKS_MAX,
};
use crate::port::{Port, layout_of};
use crate::service::offers::Offers;
use crate::service::{Mount, MountDirection, NAME_MAX, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Longest name of an environment variable in bytes.
const ENV_NAME_MAX: usize = NAME_MAX * 4;
/// Services named in a suggestion.
const SUGGESTIONS_MAX: usize = 3;

/// Problems told at once; more help nobody, and each may cost a search for what was meant.
const PROBLEMS_MAX: usize = 50;

/// What is wrong with a workflow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// What is wrong, in the order of the workflow; the first fifty.
    pub problems: Vec<Problem>,
    /// Peers that are named and whose catalogue is not here.
    pub absent: BTreeSet<PublicKey>,
    incurable: bool,
}

impl Findings {
    /// Whether meeting the absent peers might mend all of it.
    pub fn curable(&self) -> bool {
        !self.incurable && !self.absent.is_empty()
    }

    fn add(&mut self, place: impl Into<String>, reason: impl Into<String>) {
        self.incurable = true;
        self.tell(place.into(), reason.into());
    }

    fn tell(&mut self, place: String, reason: String) {
        if !self.is_full() {
            self.problems.push(Problem { place, reason });
        }
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }
}

/// Compiles `workflow`, or says everything that is wrong with it.
pub fn validate(workflow: &Workflow, offers: &dyn Offers) -> Result<Plan, Vec<Problem>> {
    check(workflow, offers).map_err(|f| f.problems)
}

/// Like [`validate`], and tells whether absent peers might mend it.
pub fn check(workflow: &Workflow, offers: &dyn Offers) -> Result<Plan, Findings> {
    let mut findings = Findings::default();
    check_sizes(workflow, &mut findings);
    if findings.incurable {
        return Err(findings);
    }
    let index = check_ids(workflow, &mut findings);
    let listing = Listing::new(offers);
    let mut choices = BTreeMap::new();
    let mut services = BTreeMap::new();
    for (at, (id, kind)) in workflow.nodes.iter().enumerate() {
        if let NodeKind::Task(spec) = kind {
            check_task(id, spec, &mut findings);
            rules::check_task(id, spec, &mut findings);
            quorum::check_numbers(id, spec, &mut findings);
            // Many tasks are of one service at the same peers.
            let asked = (spec.service.as_str(), spec.peers.as_slice(), &spec.place);
            let choice = match choices.get(&asked) {
                Some(choice) => Some(Rc::clone(choice)),
                None => resolve(id, spec, offers, &listing, &mut findings).map(Rc::new),
            };
            if let Some(choice) = choice {
                check_params(id, spec, choice.service, &mut findings);
                quorum::check_service(id, spec, &choice, offers, &mut findings);
                choices.insert(asked, Rc::clone(&choice));
                services.insert(at, choice);
            }
        }
    }
    let mut edges = check_edges(workflow, &index, &services, &mut findings);
    rules::check_conditions(workflow, &index, &services, &mut edges, &mut findings);
    check_inputs(workflow, &edges, &services, &mut findings);
    let order = topological(workflow, &edges, &mut findings);
    if !findings.problems.is_empty() {
        return Err(findings);
    }
    let plan = compile(workflow, &edges, &services, &order);
    if plan.encode().len() > PLAN_BYTES_MAX {
        findings.add(
            "nodes",
            format!("the compiled plan is larger than {PLAN_BYTES_MAX} bytes; split the workflow"),
        );
        return Err(findings);
    }
    Ok(plan)
}

/// A resolved service and who may run it.
struct Choice<'a> {
    service: &'a Service,
    id: Digest,
    candidates: Vec<PublicKey>,
}

/// What each node was resolved to, by its index.
type Services<'a> = BTreeMap<usize, Rc<Choice<'a>>>;

/// All services on offer with their ids, each hashed once.
struct Listing<'a> {
    all: Vec<(PublicKey, &'a Service, Digest)>,
    by_name: BTreeMap<&'a str, Vec<usize>>,
    by_id: BTreeMap<Digest, Vec<usize>>,
}

impl<'a> Listing<'a> {
    fn new(offers: &'a dyn Offers) -> Self {
        let all: Vec<_> = offers.all().into_iter().map(|(p, s)| (p, s, s.id())).collect();
        let mut listing = Listing { all, by_name: BTreeMap::new(), by_id: BTreeMap::new() };
        for (i, (_, service, id)) in listing.all.iter().enumerate() {
            listing.by_name.entry(service.name.as_str()).or_default().push(i);
            listing.by_id.entry(*id).or_default().push(i);
        }
        listing
    }

    /// Who offers what is named so, or has this id, in the order of keys.
    fn matching(&self, service: &str) -> Vec<(PublicKey, &'a Service, Digest)> {
        let found = match service.parse::<Digest>() {
            Ok(id) => self.by_id.get(&id),
            Err(_) => self.by_name.get(service),
        };
        found.into_iter().flatten().filter_map(|i| self.all.get(*i)).copied().collect()
    }
}

/// An edge whose nodes exist, by their indices.
struct Wire<'a> {
    from: usize,
    to: usize,
    edge: &'a Edge,
}

/// Edges whose nodes exist, in declared order, by the nodes at their ends.
struct Wires<'a> {
    all: Vec<Wire<'a>>,
    into: Vec<Vec<usize>>,
    out_of: Vec<Vec<usize>>,
    /// By node: the nodes that its conditions ask about.
    asks: Vec<BTreeSet<usize>>,
    /// By node: the nodes whose conditions ask about it.
    asked_by: Vec<BTreeSet<usize>>,
}

impl<'a> Wires<'a> {
    fn new(nodes: usize) -> Self {
        let (none, nobody) = (vec![Vec::new(); nodes], vec![BTreeSet::new(); nodes]);
        Wires { all: Vec::new(), into: none.clone(), out_of: none, asks: nobody.clone(), asked_by: nobody }
    }

    fn ask(&mut self, node: usize, about: usize) {
        self.asks[node].insert(about);
        self.asked_by[about].insert(node);
    }

    /// The nodes that must be over before this one, edge by edge.
    fn before(&self, node: usize) -> impl Iterator<Item = usize> {
        self.into(node).map(|x| x.from).chain(self.asks[node].iter().copied())
    }

    /// The nodes for which this one must be over, edge by edge.
    fn after(&self, node: usize) -> impl Iterator<Item = usize> {
        self.out_of(node).map(|x| x.to).chain(self.asked_by[node].iter().copied())
    }

    fn push(&mut self, wire: Wire<'a>) {
        self.into[wire.to].push(self.all.len());
        self.out_of[wire.from].push(self.all.len());
        self.all.push(wire);
    }

    fn into(&self, node: usize) -> impl Iterator<Item = &Wire<'a>> + Clone {
        self.into[node].iter().map(|i| &self.all[*i])
    }

    fn out_of(&self, node: usize) -> impl Iterator<Item = &Wire<'a>> {
        self.out_of[node].iter().map(|i| &self.all[*i])
    }
}

fn check_sizes(w: &Workflow, f: &mut Findings) {
    if w.nodes.len() > WORKFLOW_NODES_MAX {
        f.add("nodes", format!("{} nodes, at most {WORKFLOW_NODES_MAX} are allowed", w.nodes.len()));
    }
    if w.edges.len() > WORKFLOW_EDGES_MAX {
        f.add("edges", format!("{} edges, at most {WORKFLOW_EDGES_MAX} are allowed", w.edges.len()));
    }
    if w.name.len() > WORKFLOW_NAME_MAX || w.name.chars().any(char::is_control) {
        f.add("name", format!("at most {WORKFLOW_NAME_MAX} bytes without control characters"));
    }
    match w.nodes.iter().filter(|(_, k)| matches!(k, NodeKind::Task(_))).count() {
        0 => f.add("nodes", "there is no task; add a node with a `service`"),
        n if n > WORKFLOW_TASKS_MAX => {
            f.add("nodes", format!("{n} tasks, at most {WORKFLOW_TASKS_MAX} are allowed"));
        }
        _ => {}
    }
    rules::check_run(&w.rules, f);
    if !f.incurable && encode_workflow(w).len() > PLAN_BYTES_MAX {
        f.add("nodes", format!("the workflow is larger than {PLAN_BYTES_MAX} bytes; split it"));
    }
}

fn check_params(id: &str, t: &TaskSpec, service: &Service, f: &mut Findings) {
    if service.program.dataset().is_some() {
        for (what, given) in [("args", !t.args.is_empty()), ("env", !t.env.is_empty())] {
            if given {
                f.add(
                    format!("nodes.{id}.{what}"),
                    format!("`{}` is a dataset and takes none", service.name),
                );
            }
        }
    }
    for (name, words) in placement::unfilled(service, &t.env) {
        let what = if words.is_empty() { String::new() } else { format!(" ({words})") };
        f.add(format!("nodes.{id}.env.{name}"), format!("`{}` asks for {name}{what}; set it", service.name));
    }
}

fn check_ids<'a>(w: &'a Workflow, f: &mut Findings) -> BTreeMap<&'a str, usize> {
    let mut index = BTreeMap::new();
    for (at, (id, kind)) in w.nodes.iter().enumerate() {
        if !valid_node_id(id) {
            f.add(format!("nodes.{id}"), format!("an id has 1 to {NAME_MAX} of a-z, 0-9, `-`, `_`, `.`"));
        }
        if index.insert(id.as_str(), at).is_some() {
            f.add(format!("nodes.{id}"), "this id is used twice; rename one of the nodes");
        }
        if let NodeKind::Source(objects) = kind
            && objects.iter().any(|o| o.len > OBJECT_BYTES_MAX)
        {
            f.add(format!("nodes.{id}"), format!("an object is larger than {OBJECT_BYTES_MAX} bytes"));
        }
    }
    index
}

fn check_task(id: &str, t: &TaskSpec, f: &mut Findings) {
    let place = |what: &str| format!("nodes.{id}.{what}");
    if t.args.len() > TASK_ARGS_MAX {
        f.add(place("args"), format!("{} arguments, at most {TASK_ARGS_MAX} are allowed", t.args.len()));
    }
    if t.env.len() > TASK_ARGS_MAX {
        f.add(place("env"), format!("{} variables, at most {TASK_ARGS_MAX} are allowed", t.env.len()));
    }
    let fits = |s: &str| s.len() <= TASK_ARG_BYTES_MAX && !s.contains('\0');
    for (i, arg) in t.args.iter().enumerate().filter(|(_, a)| !fits(a)) {
        let n = arg.len();
        f.add(place(&format!("args[{i}]")), format!("{n} bytes; at most {TASK_ARG_BYTES_MAX}, and no NUL"));
    }
    for (name, value) in &t.env {
        if name.is_empty() || name.len() > ENV_NAME_MAX || name.contains(['=', '\0']) {
            f.add(place("env"), format!("`{}` is no name of a variable", name.escape_debug()));
        }
        if !fits(value) {
            let n = value.len();
            f.add(
                place(&format!("env.{name}")),
                format!("{n} bytes; at most {TASK_ARG_BYTES_MAX}, and no NUL"),
            );
        }
    }
    let text: usize = t.args.iter().map(String::len).sum::<usize>()
        + t.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    if text > TASK_TEXT_BYTES_MAX {
        let reason = format!(
            "{text} bytes of arguments and environment, at most {TASK_TEXT_BYTES_MAX} together; pass larger values \
             through a port"
        );
        f.add(place("args"), reason);
    }
    if t.retries > RETRIES_MAX {
        f.add(place("retries"), format!("{} retries, at most {RETRIES_MAX}", t.retries));
    }
    if let Some(fault) = t.place.fault() {
        f.add(place("place"), fault);
    }
    if t.timeout_ms == Some(0) {
        f.add(place("timeout"), "a time limit of zero; leave it out for the service's own limit");
    }
    if t.peers.len() > CANDIDATES_MAX {
        f.add(place("peers"), format!("{} peers, at most {CANDIDATES_MAX} are allowed", t.peers.len()));
    }
}

fn resolve<'a>(
    id: &str,
    t: &TaskSpec,
    offers: &'a dyn Offers,
    listing: &Listing<'a>,
    f: &mut Findings,
) -> Option<Choice<'a>> {
    let named = |p: &PublicKey| t.peers.is_empty() || t.peers.contains(p);
    let matching = listing.matching(&t.service);
    let able = |p: &PublicKey, service: &Service| {
        offers.misfit(p, service).is_none()
            && placement::lacks(&t.place, service, offers.machine(p)).is_empty()
    };
    let usable: Vec<_> = matching.iter().filter(|(p, s, _)| named(p) && able(p, s)).collect();
    let rank = |p: &PublicKey| t.peers.iter().position(|n| n == p).unwrap_or(0);
    // One service for all attempts: of equal names the most preferred peer's, then the most offered, then the newest.
    let mut offered: BTreeMap<Digest, usize> = BTreeMap::new();
    for (_, _, sid) in &usable {
        *offered.entry(*sid).or_default() += 1;
    }
    let count = |sid: &Digest| offered.get(sid).copied().unwrap_or(0);
    let best = usable.iter().min_by(|a, b| {
        rank(&a.0)
            .cmp(&rank(&b.0))
            .then_with(|| count(&b.2).cmp(&count(&a.2)))
            .then_with(|| b.1.version.cmp(&a.1.version))
            .then_with(|| a.2.cmp(&b.2))
    });
    if let Some((_, service, sid)) = best {
        let mut candidates: Vec<PublicKey> =
            usable.iter().filter(|(_, _, s)| s == sid).map(|(p, ..)| *p).collect();
        candidates.sort_by_key(rank);
        candidates.dedup();
        candidates.truncate(CANDIDATES_MAX);
        return Some(Choice { service, id: *sid, candidates });
    }
    explain_missing(id, t, offers, &matching, f);
    None
}

fn explain_missing(
    id: &str,
    t: &TaskSpec,
    offers: &dyn Offers,
    matching: &[(PublicKey, &Service, Digest)],
    f: &mut Findings,
) {
    let absent: Vec<PublicKey> = t.peers.iter().filter(|p| !offers.knows(p)).copied().collect();
    let misfit = |(p, s, _): &(PublicKey, &Service, Digest)| offers.misfit(p, s);
    let able = matching.iter().filter(|offer| misfit(offer).is_none());
    let elsewhere: Vec<String> = able.map(|(p, ..)| p.to_string()).take(SUGGESTIONS_MAX).collect();
    let named = matching.iter().filter(|(p, ..)| t.peers.is_empty() || t.peers.contains(p));
    // Only if that is what all of them lack: else each has its own reason.
    let unable = named.map(misfit).collect::<Option<Vec<String>>>().and_then(|all| all.into_iter().next());
    if !absent.is_empty() {
        let names: Vec<String> = absent.iter().map(PublicKey::to_string).collect();
        f.tell(
            format!("nodes.{id}.peers"),
            format!("not connected to {}: what it offers is not known", names.join(", ")),
        );
        f.absent.extend(absent);
    } else if f.is_full() {
        f.incurable = true;
    } else if let Some(why) = unable {
        f.add(format!("nodes.{id}.service"), format!("nobody here can run `{}`: {why}", t.service));
    } else if let Some(reason) = unfit(t, offers, matching) {
        f.add(format!("nodes.{id}.place"), reason);
    } else if !elsewhere.is_empty() {
        let reason = format!("none of these peers offers `{}`; {} does", t.service, elsewhere.join(", "));
        f.add(format!("nodes.{id}.peers"), reason);
    } else {
        let near = near_names(&t.service, offers);
        let hint = if near.is_empty() {
            "no peer offers any service; connect to one, or add a service here".to_owned()
        } else {
            format!("did you mean {}?", near.join(" or "))
        };
        f.add(format!("nodes.{id}.service"), format!("nobody offers `{}`; {hint}", t.service));
    }
}

/// Why none of those who were asked for and offer it will do.
fn unfit(t: &TaskSpec, offers: &dyn Offers, matching: &[(PublicKey, &Service, Digest)]) -> Option<String> {
    let named = matching.iter().filter(|(p, ..)| t.peers.is_empty() || t.peers.contains(p));
    let why = |(p, s, _): &(PublicKey, &Service, Digest)| {
        let mut lacks: Vec<String> = offers.misfit(p, s).into_iter().collect();
        lacks.extend(placement::lacks(&t.place, s, offers.machine(p)));
        format!("{p}: {}", lacks.join(", "))
    };
    let reasons: Vec<String> = named.take(SUGGESTIONS_MAX).map(why).collect();
    let all = reasons.join("; ");
    (!all.is_empty()).then(|| format!("nobody who offers `{}` can run this; {all}", t.service))
}

/// Names of offered services nearest to `name`.
fn near_names(name: &str, offers: &dyn Offers) -> Vec<String> {
    let names: BTreeSet<&str> = offers.all().iter().map(|(_, s)| s.name.as_str()).collect();
    let mut ranked: Vec<_> = names.into_iter().map(|n| (edit_distance(name, n), n)).collect();
    ranked.sort();
    ranked.into_iter().take(SUGGESTIONS_MAX).map(|(_, n)| format!("`{n}`")).collect()
}

/// Levenshtein distance over bytes; both sides cut to [`NAME_MAX`].
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(NAME_MAX)], &b.as_bytes()[..b.len().min(NAME_MAX)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn check_edges<'a>(
    w: &'a Workflow,
    index: &BTreeMap<&str, usize>,
    services: &Services<'_>,
    f: &mut Findings,
) -> Wires<'a> {
    let mut wires = Wires::new(w.nodes.len());
    for (i, edge) in w.edges.iter().enumerate() {
        let from = known(&edge.from, &format!("edges[{i}].from"), index, f);
        let to = known(&edge.to, &format!("edges[{i}].to"), index, f);
        let (Some(from), Some(to)) = (from, to) else { continue };
        let service = |at| services.get(&at).map(|c| c.service);
        if let Err(reason) = gives(&w.nodes[from].1, service(from), &edge.from) {
            f.add(format!("edges[{i}].from"), reason);
        }
        if let Err(reason) = takes(&w.nodes[to].1, service(to), &edge.to) {
            f.add(format!("edges[{i}].to"), reason);
        }
        if let Err(reason) = fits(service(from), service(to), edge) {
            f.add(format!("edges[{i}]"), reason);
        }
        wires.push(Wire { from, to, edge });
    }
    wires
}

fn known(end: &End, place: &str, index: &BTreeMap<&str, usize>, f: &mut Findings) -> Option<usize> {
    let at = index.get(end.node.as_str()).copied();
    if at.is_none() && f.is_full() {
        f.incurable = true;
    } else if at.is_none() {
        let near = index.keys().min_by_key(|n| edit_distance(&end.node, n)).copied().unwrap_or_default();
        f.add(place, format!("there is no node `{}`; did you mean `{near}`?", end.node));
    }
    at
}

fn mounts(service: &Service, direction: MountDirection) -> impl Iterator<Item = &Mount> {
    service.mounts.iter().filter(move |m| m.direction == direction)
}

fn mount_list(service: &Service, direction: MountDirection) -> String {
    let names: Vec<String> = mounts(service, direction).map(|m| format!("`{}`", m.name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Whether data may leave a node at this end. Unresolved services are reported elsewhere.
fn gives(kind: &NodeKind, service: Option<&Service>, end: &End) -> Result<(), String> {
    let node = &end.node;
    match (kind, &end.port) {
        (NodeKind::Source(_), Port::Stdout) => Ok(()),
        (NodeKind::Source(_), Port::Stdin | Port::Stderr | Port::Mount(_)) => {
            Err(format!("`{node}` is a source; its only port is `out`"))
        }
        (NodeKind::Sink, Port::Stdin | Port::Stdout | Port::Stderr | Port::Mount(_)) => {
            Err(format!("`{node}` is a sink; nothing comes out of it"))
        }
        (NodeKind::Task(_), Port::Stdin) => {
            Err(format!("`stdin` of `{node}` is an input; an edge starts at `stdout`, `stderr` or a mount"))
        }
        (NodeKind::Task(_), Port::Stdout | Port::Stderr) => match service {
            Some(s) if s.program.dataset().is_some() => {
                Err(format!("`{node}` is a dataset; its only port is `data`"))
            }
            Some(_) | None => Ok(()),
        },
        (NodeKind::Task(_), Port::Mount(name)) => match service {
            Some(s) if !mounts(s, MountDirection::Out).any(|m| m.name == *name) => Err(format!(
                "`{}` has no output mount `{name}`; its output mounts: {}",
                s.name,
                mount_list(s, MountDirection::Out)
            )),
            Some(_) | None => Ok(()),
        },
    }
}

/// Whether data may enter a node at this end.
fn takes(kind: &NodeKind, service: Option<&Service>, end: &End) -> Result<(), String> {
    let node = &end.node;
    match (kind, &end.port) {
        (NodeKind::Sink, Port::Stdin) => Ok(()),
        (NodeKind::Sink, Port::Stdout | Port::Stderr | Port::Mount(_)) => {
            Err(format!("`{node}` is a sink; its only port is `in`"))
        }
        (NodeKind::Source(_), Port::Stdin | Port::Stdout | Port::Stderr | Port::Mount(_)) => {
            Err(format!("`{node}` is a source; nothing goes into it"))
        }
        (NodeKind::Task(_), Port::Stdout | Port::Stderr) => {
            Err(format!("an output of `{node}`; an edge ends at `stdin` or an input mount"))
        }
        (NodeKind::Task(_), Port::Stdin) => match service {
            Some(s) if !s.stdin => Err(format!(
                "`{}` does not read standard input; its input mounts: {}",
                s.name,
                mount_list(s, MountDirection::In)
            )),
            Some(_) | None => Ok(()),
        },
        (NodeKind::Task(_), Port::Mount(name)) => match service {
            Some(s) if !mounts(s, MountDirection::In).any(|m| m.name == *name) => Err(format!(
                "`{}` has no input mount `{name}`; its input mounts: {}",
                s.name,
                mount_list(s, MountDirection::In)
            )),
            Some(_) | None => Ok(()),
        },
    }
}

/// Whether what leaves one end is what the other takes: a file or a directory. What a source holds shows when it is read.
fn fits(from: Option<&Service>, to: Option<&Service>, edge: &Edge) -> Result<(), String> {
    let (Some(giver), Some(taker)) = (from, to) else { return Ok(()) };
    let layout = |s: &Service, port| layout_of(&s.paths(), port).is_tree();
    let (gives, takes) = (&edge.from, &edge.to);
    match (layout(giver, &gives.port), layout(taker, &takes.port)) {
        (true, false) => Err(format!(
            "`{}` gives a directory and `{}` takes a file there; a mount with the layout `tree` takes directories",
            gives.node, takes.node
        )),
        (false, true) => Err(format!(
            "`{}` gives a file and `{}` takes a directory there; an output mount with the layout `tree` gives one",
            gives.node, takes.node
        )),
        (true, true) | (false, false) => Ok(()),
    }
}

fn check_inputs(w: &Workflow, wires: &Wires<'_>, services: &Services<'_>, f: &mut Findings) {
    let mut results = 0;
    for (at, (id, kind)) in w.nodes.iter().enumerate() {
        let into = || wires.into(at);
        let objects: usize = into()
            .map(|x| match &w.nodes[x.from].1 {
                NodeKind::Source(objects) => objects.len(),
                NodeKind::Task(_) | NodeKind::Sink => 1,
            })
            .sum();
        match kind {
            NodeKind::Source(_) => {}
            NodeKind::Sink => {
                results += objects;
                if into().next().is_none() {
                    f.add(format!("nodes.{id}"), "nothing is kept here; add an edge to its `in`");
                }
            }
            NodeKind::Task(_) => {
                if objects > TASK_INPUTS_MAX {
                    let reason =
                        format!("{objects} inputs, at most {TASK_INPUTS_MAX}; join some of them first");
                    f.add(format!("nodes.{id}"), reason);
                }
                let Some(choice) = services.get(&at) else { continue };
                let fed = |port: &Port| into().any(|x| x.edge.to.port == *port);
                if choice.service.stdin && !fed(&Port::Stdin) {
                    let reason =
                        format!("`{}` reads standard input; add an edge to its `stdin`", choice.service.name);
                    f.add(format!("nodes.{id}.stdin"), reason);
                }
                for m in mounts(choice.service, MountDirection::In) {
                    if !fed(&Port::Mount(m.name.clone())) {
                        let reason = format!("input mount `{}` is empty; add an edge to it", m.name);
                        f.add(format!("nodes.{id}.{}", m.name), reason);
                    }
                }
            }
        }
    }
    if results > WORKFLOW_RESULTS_MAX {
        let reason = format!(
            "{results} results are kept, at most {WORKFLOW_RESULTS_MAX} are allowed; join some first"
        );
        f.add("nodes", reason);
    }
}

/// Node indices in topological order (Kahn), declared order among equals; names a cycle if there is one.
fn topological(w: &Workflow, wires: &Wires<'_>, f: &mut Findings) -> Vec<usize> {
    let mut waiting = vec![0usize; w.nodes.len()];
    for (at, n) in waiting.iter_mut().enumerate() {
        *n = wires.before(at).count();
    }
    let mut ready: BTreeSet<usize> = (0..w.nodes.len()).filter(|i| waiting[*i] == 0).collect();
    let mut order = Vec::with_capacity(w.nodes.len());
    while let Some(at) = ready.pop_first() {
        order.push(at);
        for next in wires.after(at) {
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.insert(next);
            }
        }
    }
    if order.len() < w.nodes.len() {
        let cycle: Vec<&str> =
            find_cycle(wires, &waiting).into_iter().map(|i| w.nodes[i].0.as_str()).collect();
        let reason = format!("{} is a cycle; remove one of its edges or conditions", cycle.join(" → "));
        f.add("edges", reason);
    }
    order
}

/// A cycle among the nodes that Kahn's algorithm left: each of them has a predecessor that was left as well, so walking
/// backwards must come by some node twice.
fn find_cycle(wires: &Wires<'_>, waiting: &[usize]) -> Vec<usize> {
    let left = |i: usize| waiting[i] > 0;
    let Some(start) = (0..waiting.len()).find(|i| left(*i)) else { return Vec::new() };
    let mut path = vec![start];
    loop {
        let here = path[path.len() - 1];
        let Some(before) = wires.before(here).find(|x| left(*x)) else {
            return path;
        };
        if let Some(seen) = path.iter().position(|p| *p == before) {
            let mut cycle = path.split_off(seen);
            cycle.reverse();
            // Told from the node that was declared first.
            let first = (0..cycle.len()).min_by_key(|i| cycle[*i]).unwrap_or(0);
            cycle.rotate_left(first);
            cycle.push(cycle[0]);
            return cycle;
        }
        path.push(before);
    }
}

fn compile(w: &Workflow, wires: &Wires<'_>, services: &Services<'_>, order: &[usize]) -> Plan {
    let is_task = |at: &&usize| matches!(w.nodes[**at].1, NodeKind::Task(_));
    let place: BTreeMap<usize, usize> =
        order.iter().filter(is_task).enumerate().map(|(planned, at)| (*at, planned)).collect();
    let sources = |x: &Wire<'_>| -> Vec<InputFrom> {
        match &w.nodes[x.from].1 {
            NodeKind::Source(objects) => objects.iter().cloned().map(InputFrom::Object).collect(),
            NodeKind::Task(_) | NodeKind::Sink => place
                .get(&x.from)
                .map(|task| InputFrom::Task { task: *task, port: x.edge.from.port.clone() })
                .into_iter()
                .collect(),
        }
    };
    let numbers = place.iter().map(|(at, planned)| (w.nodes[*at].0.as_str(), *planned)).collect();
    let mut tasks = Vec::new();
    for at in order {
        let (NodeKind::Task(spec), Some(choice)) = (&w.nodes[*at].1, services.get(at)) else { continue };
        let mut outputs: BTreeSet<Port> = wires.out_of(*at).map(|x| x.edge.from.port.clone()).collect();
        // Nothing that runs leaves no words.
        if choice.service.program.dataset().is_none() {
            outputs.insert(Port::Stderr);
        }
        outputs.extend(rules::asked_ports(w, wires, *at));
        let inputs = wires.into(*at).flat_map(|x| {
            let to = x.edge.to.port.clone();
            sources(x).into_iter().map(move |from| PlannedInput { to: to.clone(), from })
        });
        let own = choice.service.limits;
        tasks.push(PlannedTask {
            id: w.nodes[*at].0.clone(),
            declared: u32::try_from(*at).unwrap_or(u32::MAX),
            service: choice.id,
            service_name: choice.service.name.clone(),
            program: choice.service.program.clone(),
            paths: choice.service.paths(),
            args: spec.args.clone(),
            env: placement::environment(choice.service, &spec.env),
            limits: rules::first_limits(spec, own),
            retries: spec.retries,
            inputs: inputs.collect(),
            outputs: outputs.into_iter().collect(),
            candidates: choice.candidates.clone(),
            spread: spec.peers.is_empty(),
            rules: rules::compile(spec, own, &numbers),
        });
    }
    let sinks = w.nodes.iter().enumerate().filter(|(_, (_, k))| *k == NodeKind::Sink);
    Plan {
        name: w.name.clone(),
        workflow: workflow_digest(w),
        tasks,
        sinks: sinks
            .map(|(at, (id, _))| PlannedSink {
                id: id.clone(),
                inputs: wires.into(at).flat_map(sources).collect(),
            })
            .collect(),
        rules: w.rules,
    }
}

mod quorum;
mod rules;

#[cfg(test)]
#[path = "validate_tests.rs"]
pub(crate) mod tests;
