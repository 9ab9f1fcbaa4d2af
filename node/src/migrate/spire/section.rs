//! A section of SPIRE's file, from which keys are taken one by one.
//!
//! Keys are found as SPIRE finds them: case does not matter, of a key that repeats the last counts,
//! and blocks that repeat are one. What nobody took is what nobody knows.

use std::collections::BTreeMap;

use crate::migrate::hcl::{Item, Kind, Value};

/// A section, or several of one name.
#[derive(Debug)]
pub(super) struct Section<'a> {
    /// Dotted path, for remarks.
    pub(super) path: String,
    /// Line of its first key or of itself.
    pub(super) line: Option<u32>,
    items: Vec<&'a Item>,
}

/// A value that was taken, and where it stood.
#[derive(Debug, Clone)]
pub(super) struct Found<'a> {
    /// Dotted path.
    pub(super) path: String,
    /// Its line.
    pub(super) line: u32,
    /// The value.
    pub(super) value: &'a Value,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn file(items: &'a [Item]) -> Self {
        Self {
            path: String::new(),
            line: None,
            items: items.iter().collect(),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn take_items(&mut self, key: &str) -> Vec<&'a Item> {
        let mut taken = Vec::new();
        self.items.retain(|item| {
            let matches = item.key.eq_ignore_ascii_case(key);
            if matches {
                taken.push(*item);
            }
            !matches
        });
        taken
    }

    /// The value of a key, the last where it repeats. JSON's null is no value.
    pub(super) fn take(&mut self, key: &str) -> Option<Found<'a>> {
        let item = self.take_items(key).pop()?;
        (item.value.kind != Kind::Null).then(|| Found {
            path: self.path_of(key),
            line: item.at.line,
            value: &item.value,
        })
    }

    /// The section of a key, or the value that stands there and is none.
    pub(super) fn take_section(&mut self, key: &str) -> Option<Result<Section<'a>, Found<'a>>> {
        let items = self.take_items(key);
        let first = items.first()?;
        let mut section = Section {
            path: self.path_of(key),
            line: Some(first.at.line),
            items: Vec::new(),
        };
        for item in items {
            if section.add(&item.value).is_err() {
                return Some(Err(Found {
                    path: section.path,
                    line: item.at.line,
                    value: &item.value,
                }));
            }
        }
        Some(Ok(section))
    }

    /// Objects, and lists of them, which JSON writes for blocks that repeat.
    fn add(&mut self, value: &'a Value) -> Result<(), ()> {
        match &value.kind {
            Kind::Object(items) => self.items.extend(items),
            Kind::List(values) => {
                for value in values {
                    match &value.kind {
                        Kind::Object(items) => self.items.extend(items),
                        _ => return Err(()),
                    }
                }
            }
            Kind::Null => {}
            _ => return Err(()),
        }
        Ok(())
    }

    /// The sections of all keys that are left, by name; names are told apart by case here.
    pub(super) fn into_sections(self) -> Vec<(String, Result<Section<'a>, Found<'a>>)> {
        let mut order: Vec<(String, Result<Section<'a>, Found<'a>>)> = Vec::new();
        let mut places = BTreeMap::new();
        for item in &self.items {
            let at = *places.entry(item.key.as_str()).or_insert_with(|| {
                let section = Section {
                    path: self.path_of(&item.key),
                    line: Some(item.at.line),
                    items: Vec::new(),
                };
                order.push((item.key.clone(), Ok(section)));
                order.len() - 1
            });
            let Ok(section) = &mut order[at].1 else {
                continue;
            };
            if section.add(&item.value).is_err() {
                order[at].1 = Err(Found {
                    path: self.path_of(&item.key),
                    line: item.at.line,
                    value: &item.value,
                });
            }
        }
        order
    }

    /// What is left.
    pub(super) fn rest(&self) -> impl Iterator<Item = Found<'a>> + '_ {
        self.items.iter().map(|item| Found {
            path: self.path_of(&item.key),
            line: item.at.line,
            value: &item.value,
        })
    }
}

impl Found<'_> {
    /// A text; numbers are texts to SPIRE too.
    pub(super) fn text(&self) -> Result<String, &'static str> {
        match &self.value.kind {
            Kind::Text(text) | Kind::Number(text) => Ok(text.clone()),
            _ => Err("is no string"),
        }
    }

    /// A whole number, in quotes or not.
    pub(super) fn integer(&self) -> Result<i64, &'static str> {
        let (Kind::Text(text) | Kind::Number(text)) = &self.value.kind else {
            return Err("is no whole number");
        };
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.as_str()),
        };
        let parsed = if let Some(hex) = digits.strip_prefix("0x") {
            i64::from_str_radix(hex, 16)
        } else if digits.len() > 1 && digits.starts_with('0') {
            i64::from_str_radix(digits, 8)
        } else {
            digits.parse()
        };
        let number: i64 = parsed.map_err(|_| "is no whole number")?;
        let signed = if negative {
            number.checked_neg()
        } else {
            Some(number)
        };
        signed.ok_or("is no whole number")
    }

    /// True or false, in quotes or not, or as 1 or 0.
    pub(super) fn boolean(&self) -> Result<bool, &'static str> {
        match &self.value.kind {
            Kind::Bool(value) => Ok(*value),
            Kind::Text(text) | Kind::Number(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Kind::Text(text) | Kind::Number(text) if text.eq_ignore_ascii_case("false") => {
                Ok(false)
            }
            Kind::Text(text) | Kind::Number(text) if text == "1" => Ok(true),
            Kind::Text(text) | Kind::Number(text) if text == "0" => Ok(false),
            _ => Err("is neither true nor false"),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self) -> Result<Vec<String>, &'static str> {
        const WRONG: &str = "is no list of strings";
        let Kind::List(values) = &self.value.kind else {
            return Err(WRONG);
        };
        let text = |value: &Value| match &value.kind {
            Kind::Text(text) | Kind::Number(text) => Ok(text.clone()),
            _ => Err(WRONG),
        };
        values.iter().map(text).collect()
    }
}
