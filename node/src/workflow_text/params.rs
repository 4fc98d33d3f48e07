//! Parameters: what a workflow leaves open, and what it is given when it is run.
//!
//! ```yaml
//! params:
//!   region: { description: where to count }             # text that must be given
//!   least: { type: number, default: 3 }
//!   years: { default: ["2023", "2024"] }                # a list
//! ```
//!
//! A value is text to whoever uses it; its type only says what is accepted. So `0.50` stays `0.50`, and the same values
//! give the same workflow, whoever wrote them down.

use super::keys::{PARAM, PARAM_TYPES};
use super::read::{Reader, cut, suggestion};
use super::tree::{Raw, Tree};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Most parameters of a workflow: what is more is a table, and belongs into a file.
const PARAMS_MAX: usize = 256;
/// Longest name.
const NAME_MAX: usize = 64;
/// Names that a mapped task gives.
pub(super) const ITEM: &str = "item";
/// The number of an item, from zero.
pub(super) const INDEX: &str = "index";

/// What the parameters of a workflow are to be.
#[derive(Clone, Default, Debug)]
pub struct Params {
    given: BTreeMap<String, Given>,
    files_from: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Given {
    Text(String),
    Json(serde_json::Value),
}

impl Params {
    /// As typed on a command line: words, read by the type of the parameter; a list is `a,b,c` or a JSON list. Names of
    /// files are relative to `files_from`, where they were typed, and not to the workflow. The error names what was given twice.
    pub fn typed(words: Vec<(String, String)>, files_from: Option<PathBuf>) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        for (name, word) in words {
            if given.insert(name.clone(), Given::Text(word)).is_some() {
                return Err(format!("parameter `{}` is given twice", cut(&name)));
            }
        }
        Ok(Self { given, files_from })
    }

    /// As in a request's body: JSON of the parameter's own type.
    pub fn of_json(values: BTreeMap<String, serde_json::Value>) -> Self {
        Self { given: values.into_iter().map(|(k, v)| (k, Given::Json(v))).collect(), files_from: None }
    }
}

/// The value of a parameter, or an item of a list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Value {
    /// As it is put in.
    One(String),
    /// A list.
    Many(Vec<String>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Number,
    Truth,
    File,
    List,
}

impl Kind {
    fn of_word(word: &str) -> Option<Self> {
        let kinds = [Self::Text, Self::Number, Self::Truth, Self::File, Self::List];
        PARAM_TYPES.iter().zip(kinds).find(|(w, _)| **w == word).map(|(_, k)| k)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Truth => "`true` or `false`",
            Self::File => "the name of a file",
            Self::List => "a list of texts",
        }
    }

    /// The value, when this text is one of this kind.
    fn word(self, text: &str) -> Option<Value> {
        let fits = match self {
            Self::Text => true,
            Self::File => !text.is_empty(),
            Self::Number => is_number(text),
            Self::Truth => matches!(text, "true" | "false"),
            Self::List => return list_of(text),
        };
        fits.then(|| Value::One(text.to_owned()))
    }
}

/// A finite number as JSON and YAML write it: the words that Rust takes beside (`inf`, `+1`, `.5`) are no numbers.
fn is_number(text: &str) -> bool {
    text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit())
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

fn list_of(text: &str) -> Option<Value> {
    if text.starts_with('[') {
        let items: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
        return items.iter().map(json_word).collect::<Option<_>>().map(Value::Many);
    }
    let items = text.split(',').map(str::to_owned);
    Some(Value::Many(if text.is_empty() { Vec::new() } else { items.collect() }))
}

fn json_word(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(n) => Some(n.to_string()),
        serde_json::Value::Bool(b) => Some(b.to_string()),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    }
}

/// Reads what is declared, and puts what was given in its place.
pub(super) fn resolve(
    reader: &mut Reader,
    declared: Option<&Tree>,
    params: &Params,
) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    let mut names = Vec::new();
    if let Some(tree) = declared {
        let Raw::Map(entries) = tree.raw() else {
            reader.wrong("params", tree, "a mapping from names to parameters");
            return values;
        };
        if entries.len() > PARAMS_MAX {
            let reason = format!("{} parameters, at most {PARAMS_MAX} are allowed", entries.len());
            reader.say("params", tree.location(), reason);
            return values;
        }
        for (key, tree) in entries {
            let (name, place) = (key.value.as_str(), format!("params.{}", cut(&key.value)));
            let at = super::tree::location(key.referenced);
            reader.note(&place, at);
            if !valid_name(name) {
                reader.say(&place, at, "a parameter's name begins with a letter or `_`, and has at most 64 letters, digits, `-`, `_`");
            } else if name == ITEM || name == INDEX {
                reader.say(&place, at, "is what a mapped task calls its item; another name is needed");
            } else if names.contains(&name) {
                reader.say(&place, at, "is declared twice");
            }
            names.push(name);
            if let Some(value) = one(reader, &place, name, tree, params) {
                values.insert(name.to_owned(), value);
            }
        }
    }
    for name in params.given.keys().filter(|n| !names.contains(&n.as_str())) {
        let hint = match names.as_slice() {
            [] => "; the workflow declares none".to_owned(),
            names => suggestion(name, names.iter().copied()),
        };
        let at = declared.and_then(Tree::location);
        reader.say("params", at, format!("there is no parameter `{}`{hint}", cut(name)));
    }
    values
}

fn one(reader: &mut Reader, place: &str, name: &str, tree: &Tree, params: &Params) -> Option<Value> {
    let fields = match tree.raw() {
        Raw::Null => BTreeMap::new(),
        _ => reader.fields(place, tree, PARAM)?,
    };
    let said = match fields.get("type") {
        None => None,
        Some(t) => {
            let at = format!("{place}.type");
            let word = reader.text(&at, t)?;
            let kind = Kind::of_word(&word);
            if kind.is_none() {
                let hint = suggestion(&word, PARAM_TYPES.iter().copied());
                reader.say(&at, t.location(), format!("`{}` is no type{hint}", cut(&word)));
                return None;
            }
            kind
        }
    };
    if let Some(t) = fields.get("description") {
        reader.text(&format!("{place}.description"), t)?;
    }
    let default = match fields.get("default") {
        None => None,
        Some(t) => Some(default(reader, &format!("{place}.default"), t, said)?),
    };
    let kind = said.or(default.as_ref().map(|(kind, _)| *kind)).unwrap_or(Kind::Text);
    match (params.given.get(name), default) {
        (Some(given), _) => {
            let value = given_value(given, kind, params);
            if value.is_none() {
                reader.say(place, None, format!("must be {}, given was {}", kind.words(), shown(given)));
            }
            value
        }
        (None, Some((_, value))) => Some(value),
        (None, None) => {
            reader.say(
                place,
                None,
                format!("has no value: it must be given ({}), or have a `default`", kind.words()),
            );
            None
        }
    }
}

/// A default, and the kind that it has by itself.
fn default(reader: &mut Reader, place: &str, tree: &Tree, said: Option<Kind>) -> Option<(Kind, Value)> {
    let (own, value) = match tree.raw() {
        Raw::Text(text) => (Kind::Text, said.unwrap_or(Kind::Text).word(text)),
        Raw::Int(n) => (Kind::Number, Some(Value::One(n.to_string()))),
        Raw::Float(f) if f.is_finite() => (Kind::Number, Some(Value::One(f.to_string()))),
        Raw::Bool(b) => (Kind::Truth, Some(Value::One(b.to_string()))),
        Raw::Seq(_) => (Kind::List, Some(Value::Many(reader.texts(place, tree)?))),
        Raw::Float(_) | Raw::Null | Raw::Map(_) => (Kind::Text, None),
    };
    let kind = said.unwrap_or(own);
    // `type: string, default: 3` means the text; a text may spell a number, but a number is no name of a file.
    let fits = own == kind || matches!(own, Kind::Text) || (kind == Kind::Text && own != Kind::List);
    match value.filter(|_| fits) {
        Some(value) => Some((kind, value)),
        None => {
            reader.say(place, tree.location(), format!("must be {}", kind.words()));
            None
        }
    }
}

fn given_value(given: &Given, kind: Kind, params: &Params) -> Option<Value> {
    use serde_json::Value as Json;
    match (given, kind) {
        (Given::Text(text), Kind::File) => match (kind.word(text)?, &params.files_from) {
            (Value::One(name), Some(from)) => Some(Value::One(from.join(name).to_str()?.to_owned())),
            (value, _) => Some(value),
        },
        (Given::Text(text), Kind::Text | Kind::Number | Kind::Truth | Kind::List) => kind.word(text),
        (Given::Json(Json::String(text)), Kind::Text | Kind::File) => kind.word(text),
        (Given::Json(Json::Number(n)), Kind::Number) => Some(Value::One(n.to_string())),
        (Given::Json(Json::Bool(b)), Kind::Truth) => Some(Value::One(b.to_string())),
        (Given::Json(Json::Array(items)), Kind::List) => {
            items.iter().map(json_word).collect::<Option<_>>().map(Value::Many)
        }
        (Given::Json(_), _) => None,
    }
}

fn shown(given: &Given) -> String {
    match given {
        Given::Text(text) => format!("`{}`", cut(text)),
        Given::Json(value) => format!("`{}`", cut(&value.to_string())),
    }
}

/// Whether a parameter, or an item of a map, may be called so.
pub(super) fn valid_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}
