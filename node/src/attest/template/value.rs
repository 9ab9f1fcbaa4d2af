//! Values of a running template.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use chancery_identity::pki::{Name, Uri};

/// A value. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Go's untyped nil.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(Rc<[Value]>),
    Map(Rc<BTreeMap<String, String>>),
    Name(Rc<Name>),
    Uri(Rc<Uri>),
    Address(IpAddr),
    /// Unix seconds.
    Time(i64),
    /// A whole number of any size, big-endian.
    Number(Rc<[u8]>),
}

impl Value {
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    pub(super) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    pub(super) fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::list(items.into_iter().map(Self::text))
    }

    /// Go's name of its type, for errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "slice",
            Self::Map(_) => "map[string]string",
            Self::Name(_) => "pkix.Name",
            Self::Uri(_) => "*url.URL",
            Self::Address(_) => "net.IP",
            Self::Time(_) => "time.Time",
            Self::Number(_) => "*big.Int",
        }
    }

    /// Truth of `if`, `and`, `or` and `not`: what is not the zero value.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Name(_) | Self::Uri(_) | Self::Address(_) | Self::Time(_) | Self::Number(_) => {
                true
            }
        }
    }

    /// As Go's `%v` prints it.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Nil => "<nil>".into(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => float(*value),
            Self::Text(text) => text.to_string(),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::show).collect();
                format!("[{}]", items.join(" "))
            }
            Self::Map(map) => {
                let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
            Self::Name(name) => name.to_string(),
            Self::Uri(uri) => uri.as_str().to_owned(),
            Self::Address(address) => address.to_canonical().to_string(),
            Self::Time(seconds) => moment(*seconds),
            Self::Number(octets) => decimal(octets),
        }
    }

    /// Deep equality, as lists compare their items.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nil, Self::Nil) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same(b))
            }
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Uri(a), Self::Uri(b)) => a == b,
            (Self::Address(a), Self::Address(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            _ => false,
        }
    }

    /// Bytes that it holds, for the limit on values; what the certificate holds itself is bounded.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(items) => items.iter().map(|item| 16 + item.weight()).sum(),
            _ => 16,
        }
    }
}

/// Shortest form that reads back equal; an exponent where Go writes one.
fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    value.to_string()
}

/// `2006-01-02 15:04:05 +0000 UTC`.
fn moment(seconds: i64) -> String {
    let Ok(time) = time::OffsetDateTime::from_unix_timestamp(seconds) else {
        return seconds.to_string();
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000 UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// Year of a Unix second.
pub(super) fn year(seconds: i64) -> i64 {
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or(0, |time| i64::from(time.year()))
}

/// A big-endian number in decimal. A serial number has few octets.
fn decimal(octets: &[u8]) -> String {
    let mut digits: Vec<u8> = vec![0];
    for octet in octets {
        let mut carry = u32::from(*octet);
        for digit in &mut digits {
            let value = u32::from(*digit) * 256 + carry;
            *digit = u8::try_from(value % 10).unwrap_or(0);
            carry = value / 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap_or(0));
            carry /= 10;
        }
    }
    digits
        .iter()
        .rev()
        .map(|digit| char::from(b'0' + digit))
        .collect()
}
