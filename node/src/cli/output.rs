//! JSON in the very form of SPIRE's command line: protobuf's mapping with the names of the proto
//! files, fields without a value written too, absent messages left out, 64-bit integers as strings;
//! keys in alphabetical order, one line, and Go's escapes.

use std::io;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use super::error::CliError;

/// One line of JSON for `message`, whose protobuf name is `full_name`.
///
/// # Errors
/// [`CliError::Answer`] for a message that is not of that name.
pub(super) fn message_json(full_name: &str, message: &impl Message) -> Result<String, CliError> {
    let unusable =
        |error: &dyn std::fmt::Display| CliError::Answer(format!("{full_name}: {error}"));
    let pool = DescriptorPool::decode(chancery_api::FILE_DESCRIPTOR_SET)
        .map_err(|error| unusable(&error))?;
    let descriptor = pool
        .get_message_by_name(full_name)
        .ok_or_else(|| unusable(&"no such message"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| unusable(&error))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(true);
    let value = dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| unusable(&error))?;
    Ok(line(value))
}

/// One line of JSON for a value of our own. Unlike messages it keeps its nulls.
///
/// # Errors
/// [`CliError::Answer`] where a value has no JSON form.
pub(super) fn value_json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_value(value)
        .map(line)
        .map_err(|error| CliError::Answer(error.to_string()))
}

/// One line of JSON for a value of SPIRE's that is no message: its members keep their order.
///
/// # Errors
/// [`CliError::Answer`] where a value has no JSON form.
pub(super) fn struct_json(value: &impl Serialize) -> Result<String, CliError> {
    as_is(value).map_err(|error| CliError::Answer(error.to_string()))
}

fn line(mut value: Value) -> String {
    // Where a dependency makes objects remember their order, alphabetical order is not free.
    value.sort_all_objects();
    as_is(&value).expect("a JSON value has string keys and a vector takes all that is written")
}

fn as_is(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, GoFormatter))?;
    bytes.push(b'\n');
    Ok(String::from_utf8(bytes).expect("JSON is written as UTF-8"))
}

/// Compact, and careful with what HTML and JavaScript would take for their own.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let escape = |c: char| match c {
            '<' => Some(r"\u003c"),
            '>' => Some(r"\u003e"),
            '&' => Some(r"\u0026"),
            '\u{2028}' => Some(r"\u2028"),
            '\u{2029}' => Some(r"\u2029"),
            _ => None,
        };
        let mut written_to = 0;
        for (at, c) in fragment.char_indices() {
            if let Some(escaped) = escape(c) {
                writer.write_all(&fragment.as_bytes()[written_to..at])?;
                writer.write_all(escaped.as_bytes())?;
                written_to = at + c.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[written_to..])
    }
}

#[cfg(test)]
mod tests {
    use chancery_api::spire::api::server::entry::v1::CountEntriesResponse;
    use chancery_api::spire::api::types::{Agent, Entry, Selector, Spiffeid};

    use super::*;

    #[test]
    fn a_count_is_a_number() {
        let json = message_json(
            "spire.api.server.entry.v1.CountEntriesResponse",
            &CountEntriesResponse { count: 5 },
        );
        assert_eq!(json.unwrap(), "{\"count\":5}\n");
    }

    #[test]
    fn fields_without_value_are_written_and_absent_messages_are_not() {
        let json = message_json("spire.api.types.Entry", &Entry::default()).unwrap();
        assert_eq!(
            json,
            "{\"admin\":false,\"created_at\":\"0\",\"dns_names\":[],\"downstream\":false,\
             \"expires_at\":\"0\",\"federates_with\":[],\"hint\":\"\",\"id\":\"\",\
             \"jwt_svid_ttl\":0,\"revision_number\":\"0\",\"selectors\":[],\"store_svid\":false,\
             \"x509_svid_ttl\":0}\n"
        );
    }

    #[test]
    fn an_agent_has_the_names_of_the_proto_file() {
        let agent = Agent {
            id: Some(Spiffeid {
                trust_domain: "example.org".into(),
                path: "/spire/agent/a".into(),
            }),
            attestation_type: "join_token".into(),
            x509svid_serial_number: "7".into(),
            x509svid_expires_at: 1_552_410_266,
            selectors: vec![Selector {
                r#type: "k8s".into(),
                value: "<a&b>\u{2028}\"\u{1}".into(),
            }],
            ..Agent::default()
        };
        assert_eq!(
            message_json("spire.api.types.Agent", &agent).unwrap(),
            "{\"agent_version\":\"\",\"attestation_type\":\"join_token\",\"banned\":false,\
             \"can_reattest\":false,\
             \"id\":{\"path\":\"/spire/agent/a\",\"trust_domain\":\"example.org\"},\
             \"selectors\":[{\"type\":\"k8s\",\
             \"value\":\"\\u003ca\\u0026b\\u003e\\u2028\\\"\\u0001\"}],\
             \"x509svid_expires_at\":\"1552410266\",\"x509svid_serial_number\":\"7\"}\n"
        );
    }

    #[test]
    fn nothing_to_say_is_an_empty_object() {
        assert_eq!(message_json("google.protobuf.Empty", &()).unwrap(), "{}\n");
    }

    #[test]
    fn a_name_that_is_not_in_the_contracts_is_refused() {
        assert!(message_json("spire.api.types.Nothing", &()).is_err());
    }

    #[test]
    fn a_value_keeps_the_order_of_its_members_or_has_them_sorted() {
        #[derive(Serialize)]
        struct Pair {
            second: &'static str,
            first: Option<u8>,
        }
        let pair = Pair {
            second: "<>",
            first: None,
        };
        assert_eq!(
            struct_json(&pair).unwrap(),
            "{\"second\":\"\\u003c\\u003e\",\"first\":null}\n"
        );
        assert_eq!(
            value_json(&pair).unwrap(),
            "{\"first\":null,\"second\":\"\\u003c\\u003e\"}\n"
        );
    }
}
