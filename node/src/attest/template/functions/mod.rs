//! The functions of templates: one table, by name.
//!
//! Arguments come in sprig's order: the subject last, so that it can be piped.

mod cases;
mod compare;
mod lists;
mod paths;
mod regex;
mod texts;

use super::value::Value;

/// Commands that one run may take.
const STEPS_MAX: usize = 2_000;
/// Bytes that the values of one run may hold together.
const BYTES_MAX: usize = 1 << 20;
/// Regular expressions that one run may use.
const PATTERNS_MAX: usize = 50;

/// What a run may still cost.
#[derive(Debug)]
pub(super) struct Budget {
    steps: usize,
    bytes: usize,
    patterns: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            steps: STEPS_MAX,
            bytes: BYTES_MAX,
            patterns: PATTERNS_MAX,
        }
    }

    /// One command is run.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.steps = self
            .steps
            .checked_sub(1)
            .ok_or("the template takes too many steps")?;
        Ok(())
    }

    /// A value was made.
    pub(super) fn hold(&mut self, value: &Value) -> Result<(), String> {
        self.reserve(value.weight())
    }

    /// So many bytes are about to be made.
    fn reserve(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or("the template makes too large values")?;
        Ok(())
    }

    /// A regular expression is compiled.
    fn pattern(&mut self) -> Result<(), String> {
        self.patterns = self
            .patterns
            .checked_sub(1)
            .ok_or("the template uses too many regular expressions")?;
        Ok(())
    }
}

type Body = fn(&[Value], &mut Budget) -> Result<Value, String>;

/// Functions that do not look at all of their arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    And,
    Or,
}

#[derive(Clone, Copy)]
enum Kind {
    Plain(Body),
    Special(Special),
}

/// A function: its name, how many arguments it takes, and what it does.
pub(super) struct Function {
    name: &'static str,
    min: usize,
    /// None is any number.
    max: Option<usize>,
    kind: Kind,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Function {
    /// Whether it takes so many arguments.
    pub(super) fn check_count(&self, count: usize) -> Result<(), String> {
        if count >= self.min && self.max.is_none_or(|max| count <= max) {
            return Ok(());
        }
        let wanted = match self.max {
            Some(max) if max == self.min => max.to_string(),
            _ => format!("at least {}", self.min),
        };
        Err(format!(
            "wrong number of args for {}: want {wanted} got {count}",
            self.name
        ))
    }

    pub(super) fn special(&self) -> Option<Special> {
        match self.kind {
            Kind::Plain(_) => None,
            Kind::Special(special) => Some(special),
        }
    }

    /// Calls it. The count of arguments was checked when the template was parsed.
    pub(super) fn call(&self, arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
        self.check_count(arguments.len())?;
        match self.kind {
            Kind::Plain(body) => {
                body(arguments, budget).map_err(|why| format!("error calling {}: {why}", self.name))
            }
            Kind::Special(_) => Err(format!("{} cannot be called like this", self.name)),
        }
    }
}

const fn plain(name: &'static str, min: usize, max: Option<usize>, body: Body) -> Function {
    Function {
        name,
        min,
        max,
        kind: Kind::Plain(body),
    }
}
/// Exactly so many arguments.
const fn exact(name: &'static str, count: usize, body: Body) -> Function {
    plain(name, count, Some(count), body)
}
/// So many arguments or more.
const fn many(name: &'static str, min: usize, body: Body) -> Function {
    plain(name, min, None, body)
}
const fn special(name: &'static str, which: Special) -> Function {
    Function {
        name,
        min: 1,
        max: None,
        kind: Kind::Special(which),
    }
}

#[rustfmt::skip]
static FUNCTIONS: &[Function] = &[
    // Of text/template itself.
    special("and", Special::And),
    special("or", Special::Or),
    exact("not", 1, compare::not),
    exact("len", 1, compare::len),
    many("index", 1, compare::index),
    many("eq", 2, compare::eq),
    exact("ne", 2, compare::ne),
    exact("lt", 2, compare::lt),
    exact("le", 2, compare::le),
    exact("gt", 2, compare::gt),
    exact("ge", 2, compare::ge),
    many("print", 0, texts::print),
    many("printf", 1, texts::printf),
    // Text.
    exact("abbrev", 2, texts::abbrev),
    exact("abbrevboth", 3, texts::abbrevboth),
    exact("trunc", 2, texts::trunc),
    exact("trim", 1, texts::trim),
    exact("upper", 1, cases::upper),
    exact("lower", 1, cases::lower),
    exact("title", 1, cases::title),
    exact("untitle", 1, cases::untitle),
    exact("swapcase", 1, cases::swapcase),
    exact("snakecase", 1, cases::snakecase),
    exact("camelcase", 1, cases::camelcase),
    exact("kebabcase", 1, cases::kebabcase),
    exact("substr", 3, texts::substr),
    exact("repeat", 2, texts::repeat),
    exact("trimAll", 2, texts::trim_all),
    exact("trimSuffix", 2, texts::trim_suffix),
    exact("trimPrefix", 2, texts::trim_prefix),
    exact("nospace", 1, texts::nospace),
    exact("initials", 1, texts::initials),
    exact("wrap", 2, texts::wrap),
    exact("wrapWith", 3, texts::wrap_with),
    exact("contains", 2, texts::contains),
    exact("hasPrefix", 2, texts::has_prefix),
    exact("hasSuffix", 2, texts::has_suffix),
    many("quote", 0, texts::quote),
    many("squote", 0, texts::squote),
    many("cat", 0, texts::cat),
    exact("indent", 2, texts::indent),
    exact("nindent", 2, texts::nindent),
    exact("replace", 3, texts::replace),
    exact("plural", 3, texts::plural),
    exact("toString", 1, texts::to_string),
    many("seq", 0, texts::seq),
    exact("fail", 1, texts::fail),
    // Hashes and encodings.
    exact("sha1sum", 1, texts::sha1sum),
    exact("sha256sum", 1, texts::sha256sum),
    exact("adler32sum", 1, texts::adler32sum),
    exact("b64enc", 1, texts::b64enc),
    exact("b64dec", 1, texts::b64dec),
    exact("b32enc", 1, texts::b32enc),
    exact("b32dec", 1, texts::b32dec),
    // Paths.
    exact("base", 1, paths::base),
    exact("dir", 1, paths::dir),
    exact("clean", 1, paths::clean),
    exact("ext", 1, paths::ext),
    exact("isAbs", 1, paths::is_abs),
    // Defaults.
    many("default", 1, compare::default),
    exact("empty", 1, compare::empty),
    many("coalesce", 0, compare::coalesce),
    many("all", 0, compare::all),
    many("any", 0, compare::any),
    exact("ternary", 3, compare::ternary),
    // Lists.
    exact("splitList", 2, lists::split_list),
    exact("toStrings", 1, lists::to_strings),
    exact("join", 2, lists::join),
    exact("sortAlpha", 1, lists::sort_alpha),
    many("tuple", 0, lists::list),
    many("list", 0, lists::list),
    exact("append", 2, lists::append),
    exact("mustAppend", 2, lists::append),
    exact("push", 2, lists::append),
    exact("mustPush", 2, lists::append),
    exact("prepend", 2, lists::prepend),
    exact("mustPrepend", 2, lists::prepend),
    exact("first", 1, lists::first),
    exact("mustFirst", 1, lists::first),
    exact("last", 1, lists::last),
    exact("mustLast", 1, lists::last),
    exact("rest", 1, lists::rest),
    exact("mustRest", 1, lists::rest),
    exact("initial", 1, lists::initial),
    exact("mustInitial", 1, lists::initial),
    exact("reverse", 1, lists::reverse),
    exact("mustReverse", 1, lists::reverse),
    exact("compact", 1, lists::compact),
    exact("mustCompact", 1, lists::compact),
    exact("uniq", 1, lists::uniq),
    exact("mustUniq", 1, lists::uniq),
    many("without", 1, lists::without),
    many("mustWithout", 1, lists::without),
    exact("has", 2, lists::has),
    exact("mustHas", 2, lists::has),
    many("slice", 1, lists::slice),
    many("mustSlice", 1, lists::slice),
    many("concat", 0, lists::concat),
    exact("chunk", 2, lists::chunk),
    exact("mustChunk", 2, lists::chunk),
    // Regular expressions.
    exact("regexMatch", 2, regex::matches),
    exact("mustRegexMatch", 2, regex::matches),
    exact("regexFind", 2, regex::find),
    exact("mustRegexFind", 2, regex::find),
    exact("regexFindAll", 3, regex::find_all),
    exact("mustRegexFindAll", 3, regex::find_all),
    exact("regexReplaceAll", 3, regex::replace_all),
    exact("mustRegexReplaceAll", 3, regex::replace_all),
    exact("regexReplaceAllLiteral", 3, regex::replace_all_literal),
    exact("mustRegexReplaceAllLiteral", 3, regex::replace_all_literal),
    exact("regexSplit", 3, regex::split),
    exact("mustRegexSplit", 3, regex::split),
    exact("regexQuoteMeta", 1, regex::quote_meta),
];

/// Functions that SPIRE's templates have and these do not: they make dictionaries, take
/// URLs apart, or give another result each time.
const OF_SPIRE: &[&str] = &[
    "dict",
    "get",
    "set",
    "unset",
    "hasKey",
    "pluck",
    "keys",
    "pick",
    "omit",
    "merge",
    "mergeOverwrite",
    "mustMerge",
    "mustMergeOverwrite",
    "values",
    "dig",
    "uuidv4",
    "urlParse",
    "urlJoin",
    "html",
    "js",
    "urlquery",
    "call",
    "println",
];

/// The function of that name.
pub(super) fn named(name: &str) -> Result<&'static Function, String> {
    if let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) {
        return Ok(function);
    }
    Err(if OF_SPIRE.contains(&name) {
        format!("function {name:?} is not supported")
    } else {
        format!("function {name:?} not defined")
    })
}

fn wrong(expected: &str, value: &Value) -> String {
    format!(
        "wrong type for value; expected {expected}; got {}",
        value.kind()
    )
}

/// Argument `at` as text.
fn text(arguments: &[Value], at: usize) -> Result<&str, String> {
    match arguments.get(at) {
        Some(Value::Text(text)) => Ok(text),
        Some(other) => Err(wrong("string", other)),
        None => Err("missing argument".into()),
    }
}

/// Argument `at` as a whole number.
fn int(arguments: &[Value], at: usize) -> Result<i64, String> {
    match arguments.get(at) {
        Some(Value::Int(value)) => Ok(*value),
        #[allow(clippy::cast_possible_truncation, reason = "bounded just before")]
        Some(Value::Float(value)) if value.fract() == 0.0 && value.abs() < 9e15 => {
            Ok(*value as i64)
        }
        Some(other) => Err(wrong("int", other)),
        None => Err("missing argument".into()),
    }
}

/// Argument `at` as a list.
fn list(arguments: &[Value], at: usize) -> Result<&[Value], String> {
    match arguments.get(at) {
        Some(Value::List(items)) => Ok(items),
        Some(other) => Err(format!("not a list but {}", other.kind())),
        None => Err("missing argument".into()),
    }
}

/// Bytes `from` to `to` of a text, if that cuts no character.
fn cut(text: &str, from: usize, to: usize) -> Result<&str, String> {
    if from > to || to > text.len() {
        return Err("slice bounds out of range".into());
    }
    let part = text.get(from..to);
    part.ok_or_else(|| "a character would be cut in two, which is not supported".into())
}
