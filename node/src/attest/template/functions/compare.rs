//! Comparisons, emptiness, and getting at parts.

use std::cmp::Ordering;

use super::{Budget, Value, int, wrong};

pub(super) fn not(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(!arguments[0].is_true()))
}

pub(super) fn len(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let length = match &arguments[0] {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.len(),
        Value::Nil => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// An item of a list, of lists in a list, of a map, or a byte of a text.
pub(super) fn index(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut value = arguments[0].clone();
    for at in 1..arguments.len() {
        let position = |length: usize| {
            let wanted = int(arguments, at)?;
            let found = usize::try_from(wanted).ok().filter(|i| *i < length);
            found.ok_or_else(|| format!("index out of range: {wanted}"))
        };
        value = match &value {
            Value::List(items) => items[position(items.len())?].clone(),
            Value::Text(text) => Value::Int(text.as_bytes()[position(text.len())?].into()),
            // A key that is not there has the empty text.
            Value::Map(map) => match &arguments[at] {
                Value::Text(key) => Value::text(map.get(&**key).map_or("", String::as_str)),
                other => return Err(wrong("string", other)),
            },
            Value::Nil => return Err("index of untyped nil".into()),
            other => return Err(format!("can't index item of type {}", other.kind())),
        };
    }
    Ok(value)
}

/// Whether two basic values are equal; an error where they cannot be compared.
fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    use Value::{Bool, Float, Int, Nil, Text};
    match (a, b) {
        (Bool(_), Bool(_)) | (Int(_), Int(_)) | (Float(_), Float(_)) | (Text(_), Text(_)) => {
            Ok(a.same(b))
        }
        (Nil, Nil) => Ok(true),
        (Nil, _) | (_, Nil) => Ok(false),
        (Bool(_) | Int(_) | Float(_) | Text(_), Bool(_) | Int(_) | Float(_) | Text(_)) => {
            Err("incompatible types for comparison".into())
        }
        _ => Err(format!("non-comparable types {}, {}", a.kind(), b.kind())),
    }
}

/// Whether the first equals any of the others.
pub(super) fn eq(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    for other in &arguments[1..] {
        if equal(&arguments[0], other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

pub(super) fn ne(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(!equal(&arguments[0], &arguments[1])?))
}

fn ordering(arguments: &[Value]) -> Result<Ordering, String> {
    match (&arguments[0], &arguments[1]) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (
            Value::Int(_) | Value::Float(_) | Value::Text(_),
            Value::Int(_) | Value::Float(_) | Value::Text(_),
        ) => Err("incompatible types for comparison".into()),
        _ => Err("invalid type for comparison".into()),
    }
}

pub(super) fn lt(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(ordering(arguments)?.is_lt()))
}

pub(super) fn le(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(ordering(arguments)?.is_le()))
}

pub(super) fn gt(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(ordering(arguments)?.is_gt()))
}

pub(super) fn ge(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(ordering(arguments)?.is_ge()))
}

/// The second value if it is there and not empty, else the first.
pub(super) fn default(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let given = arguments.get(1).filter(|given| given.is_true());
    Ok(given.unwrap_or(&arguments[0]).clone())
}

pub(super) fn empty(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(!arguments[0].is_true()))
}

pub(super) fn coalesce(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let first = arguments.iter().find(|value| value.is_true());
    Ok(first.cloned().unwrap_or(Value::Nil))
}

pub(super) fn all(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(arguments.iter().all(Value::is_true)))
}

pub(super) fn any(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(arguments.iter().any(Value::is_true)))
}

pub(super) fn ternary(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    match &arguments[2] {
        Value::Bool(true) => Ok(arguments[0].clone()),
        Value::Bool(false) => Ok(arguments[1].clone()),
        other => Err(wrong("bool", other)),
    }
}
