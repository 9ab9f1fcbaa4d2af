//! The files that flags name: read whole, bounded, and JSON as Go would match it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::CliError;
use super::host::Host;

/// A file larger than this would not fit any one request, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What stands in the file at `path`.
///
/// # Errors
/// [`CliError::File`], [`CliError::FileTooLarge`].
pub(super) fn file(path: &str) -> Result<Vec<u8>, CliError> {
    File::open(path)
        .map_err(|source| CliError::File {
            path: path.into(),
            source,
        })
        .and_then(|mut file| whole(&mut file, path))
}

/// What stands on standard input.
///
/// # Errors
/// [`CliError::File`], [`CliError::FileTooLarge`], with `-` for a path.
pub(super) fn standard_input(host: &mut Host<'_>) -> Result<Vec<u8>, CliError> {
    whole(host.stdin, "-")
}

/// What stands in the file at `path`; `-` is standard input.
///
/// # Errors
/// [`CliError::File`], [`CliError::FileTooLarge`].
pub(super) fn file_or_standard_input(path: &str, host: &mut Host<'_>) -> Result<Vec<u8>, CliError> {
    if path == "-" {
        return standard_input(host);
    }
    file(path)
}

fn whole(reader: &mut dyn io::Read, path: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(FILE_BYTES_MAX + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|source| CliError::File {
            path: path.into(),
            source,
        })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CliError::FileTooLarge {
            path: path.into(),
            bytes_max: FILE_BYTES_MAX,
        });
    }
    Ok(bytes)
}

/// Reads `bytes` as JSON with [`go_names`] at every depth.
///
/// # Errors
/// [`CliError::Json`]; `path` names the file in it.
pub(super) fn json<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &str) -> Result<T, CliError> {
    object(bytes)
        .and_then(|value| serde_json::from_value(go_names_everywhere(value)))
        .map_err(|source| CliError::Json {
            path: Path::new(path).to_owned(),
            source,
        })
}

/// Reads `bytes` as a JSON object. Asked for a record, serde would take an array for its members
/// in turn.
///
/// # Errors
/// That it is no JSON, or none of an object.
pub(super) fn object(bytes: &[u8]) -> serde_json::Result<Value> {
    match serde_json::from_slice(bytes)? {
        value @ Value::Object(_) => Ok(value),
        _ => Err(serde::de::Error::custom("not an object")),
    }
}

/// Members by their names in lower case, without those that are null: Go matches names without
/// regard to case, and takes null for absent.
pub(super) fn go_names(value: Value) -> Value {
    renamed(value, &|value| value)
}

fn go_names_everywhere(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(go_names_everywhere).collect()),
        value => renamed(value, &go_names_everywhere),
    }
}

fn renamed(value: Value, inner: &dyn Fn(Value) -> Value) -> Value {
    match value {
        Value::Object(members) => {
            let known = members.into_iter().filter(|(_, value)| !value.is_null());
            let renamed = known.map(|(name, value)| (name.to_lowercase(), inner(value)));
            Value::Object(renamed.collect())
        }
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_in_lower_case_once_or_everywhere() {
        let value = json!({"aB": {"cD": 1}, "E": null, "f": [{"gH": null, "Ij": 2}]});
        assert_eq!(
            go_names(value.clone()),
            json!({"ab": {"cD": 1}, "f": [{"gH": null, "Ij": 2}]})
        );
        assert_eq!(
            go_names_everywhere(value),
            json!({"ab": {"cd": 1}, "f": [{"ij": 2}]})
        );
    }

    #[test]
    fn only_an_object_is_a_record() {
        assert_eq!(object(b"{\"a\":1}").unwrap(), json!({"a": 1}));
        for other in ["", "[]", "[[]]", "null", "1"] {
            assert!(object(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_read_to_its_end() {
        let error = whole(&mut io::repeat(b' '), "-").unwrap_err();
        assert_eq!(error.with_causes(), "- is larger than 67108864 bytes");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = file("/nonexistent/entries.json").unwrap_err();
        assert!(
            error
                .with_causes()
                .starts_with("cannot read /nonexistent/entries.json: ")
        );
    }
}
