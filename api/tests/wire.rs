//! The compiled contracts are those of SPIRE.
//!
//! `tests/vectors/wire.json` holds what SPIRE's own descriptors say. Both sides are flattened to
//! lines `subject: what it is`, and the lines must be the same: what is missing here fails, and so
//! does what is here and not there.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ServiceDescriptor, Syntax,
};
use serde_json::{Map, Value};

const WIRE_JSON: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/vectors/wire.json"
));

/// Packages that are ours, or everybody's, and so not in SPIRE's table.
const OUTSIDE: [&str; 3] = ["chancery.", "google.protobuf", "google.rpc"];

/// What stands where: `message M field 3` -> `name=... type=...`.
type Facts = BTreeMap<String, String>;

fn pool() -> DescriptorPool {
    DescriptorPool::decode(chancery_api::FILE_DESCRIPTOR_SET).expect("the build wrote it")
}

fn wire() -> Map<String, Value> {
    match serde_json::from_str(WIRE_JSON).expect("checked-in JSON") {
        Value::Object(wire) => wire,
        other => panic!("not an object: {other}"),
    }
}

fn outside(package: &str) -> bool {
    OUTSIDE.iter().any(|prefix| package.starts_with(prefix))
}

fn put(facts: &mut Facts, subject: String, what: String) {
    if let Some(before) = facts.insert(subject.clone(), what) {
        panic!("{subject} stands twice, first as {before}");
    }
}

/// Every difference, by name; empty when both sides say the same.
fn differences(want: &Facts, have: &Facts) -> Vec<String> {
    let subjects: BTreeSet<_> = want.keys().chain(have.keys()).collect();
    subjects
        .into_iter()
        .filter_map(|subject| match (want.get(subject), have.get(subject)) {
            (Some(want), Some(have)) if want == have => None,
            (Some(want), Some(have)) => Some(format!("{subject}: is [{have}], must be [{want}]")),
            (Some(want), None) => Some(format!("{subject}: missing, must be [{want}]")),
            (None, Some(have)) => Some(format!("{subject}: not SPIRE's, is [{have}]")),
            (None, None) => unreachable!("the subject came from one of them"),
        })
        .collect()
}

// What the table says. Unknown members fail, so that no fact is passed over.

fn object<'a>(value: &'a Value, known: &[&str]) -> &'a Map<String, Value> {
    let object = value.as_object().expect("an object");
    for key in object.keys() {
        assert!(known.contains(&key.as_str()), "unknown member {key}");
    }
    object
}

fn text<'a>(object: &'a Map<String, Value>, key: &str, default: &'a str) -> &'a str {
    object
        .get(key)
        .map_or(default, |value| value.as_str().expect("a string"))
}

fn flag(object: &Map<String, Value>, key: &str) -> bool {
    object
        .get(key)
        .is_some_and(|value| value.as_bool().expect("a boolean"))
}

fn section<'a>(wire: &'a Map<String, Value>, name: &str) -> &'a Map<String, Value> {
    wire[name].as_object().expect("an object")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn wanted(wire: &Map<String, Value>) -> Facts {
    for name in wire.keys() {
        assert!(
            ["enums", "files", "messages", "services", "source"].contains(&name.as_str()),
            "unknown section {name}"
        );
    }
    let mut facts = Facts::new();
    for (path, package) in section(wire, "files") {
        let package = package.as_str().expect("a string");
        put(
            &mut facts,
            format!("file {path}"),
            format!("package={package} syntax=proto3"),
        );
    }
    for (name, message) in section(wire, "messages") {
        put(&mut facts, format!("message {name}"), String::new());
        for field in items(&object(message, &["fields"])["fields"]) {
            let field = object(
                field,
                &["deprecated", "kind", "label", "n", "name", "oneof", "type"],
            );
            put(
                &mut facts,
                format!("message {name} field {}", field["n"]),
                field_line(
                    text(field, "name", ""),
                    text(field, "type", ""),
                    text(field, "kind", "scalar"),
                    text(field, "label", "-"),
                    text(field, "oneof", "-"),
                    flag(field, "deprecated"),
                ),
            );
        }
    }
    for (name, values) in section(wire, "enums") {
        put(&mut facts, format!("enum {name}"), String::new());
        for (number, value) in values.as_object().expect("an object") {
            put(
                &mut facts,
                format!("enum {name} value {number}"),
                value.as_str().expect("a string").to_owned(),
            );
        }
    }
    for (name, methods) in section(wire, "services") {
        put(&mut facts, format!("service {name}"), String::new());
        for method in items(methods) {
            let method = object(
                method,
                &[
                    "client_stream",
                    "in",
                    "name",
                    "out",
                    "path",
                    "server_stream",
                ],
            );
            put(
                &mut facts,
                format!("service {name} method {}", text(method, "name", "")),
                method_line(
                    text(method, "path", ""),
                    text(method, "in", ""),
                    flag(method, "client_stream"),
                    text(method, "out", ""),
                    flag(method, "server_stream"),
                ),
            );
        }
    }
    facts
}

// What the descriptors say.

fn compiled(pool: &DescriptorPool) -> Facts {
    let mut facts = Facts::new();
    for file in pool.files().filter(|file| !outside(file.package_name())) {
        let syntax = match file.syntax() {
            Syntax::Proto3 => "proto3",
            Syntax::Proto2 => "proto2",
        };
        put(
            &mut facts,
            format!("file {}", file.name()),
            format!("package={} syntax={syntax}", file.package_name()),
        );
    }
    for message in pool.all_messages() {
        // The entry messages of map fields are part of the field's type.
        if !outside(message.package_name()) && !message.is_map_entry() {
            message_facts(&mut facts, &message);
        }
    }
    for enumeration in pool.all_enums() {
        if !outside(enumeration.package_name()) {
            enum_facts(&mut facts, &enumeration);
        }
    }
    for service in pool.services() {
        if !outside(service.package_name()) {
            service_facts(&mut facts, &service);
        }
    }
    facts
}

fn message_facts(facts: &mut Facts, message: &MessageDescriptor) {
    let name = message.full_name();
    put(facts, format!("message {name}"), String::new());
    for field in message.fields() {
        let (kind, type_name) = if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                unreachable!("a map field is a field of entry messages")
            };
            let key = type_name(&entry.map_entry_key_field());
            let value = type_name(&entry.map_entry_value_field());
            ("map", format!("map<{key},{value}>"))
        } else {
            let kind = match field.kind() {
                Kind::Message(_) => "message",
                Kind::Enum(_) => "enum",
                _ => "scalar",
            };
            (kind, type_name(&field))
        };
        let label = match field.cardinality() {
            _ if field.is_map() => "-",
            Cardinality::Repeated => "repeated",
            Cardinality::Required => "required",
            Cardinality::Optional if field.field_descriptor_proto().proto3_optional() => "optional",
            Cardinality::Optional => "-",
        };
        // `optional` is a oneof of one member to the compiler, and to nobody else.
        let oneof = field
            .containing_oneof()
            .filter(|oneof| !oneof.is_synthetic());
        put(
            facts,
            format!("message {name} field {}", field.number()),
            field_line(
                field.name(),
                &type_name,
                kind,
                label,
                oneof.as_ref().map_or("-", |oneof| oneof.name()),
                deprecated(&field),
            ),
        );
    }
}

fn type_name(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(enumeration) => enumeration.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn deprecated(field: &FieldDescriptor) -> bool {
    field
        .field_descriptor_proto()
        .options
        .as_ref()
        .is_some_and(|options| options.deprecated())
}

fn enum_facts(facts: &mut Facts, enumeration: &EnumDescriptor) {
    let name = enumeration.full_name();
    put(facts, format!("enum {name}"), String::new());
    for value in enumeration.values() {
        put(
            facts,
            format!("enum {name} value {}", value.number()),
            value.name().to_owned(),
        );
    }
}

fn service_facts(facts: &mut Facts, service: &ServiceDescriptor) {
    let name = service.full_name();
    put(facts, format!("service {name}"), String::new());
    for method in service.methods() {
        put(
            facts,
            format!("service {name} method {}", method.name()),
            method_line(
                &format!("/{name}/{}", method.name()),
                method.input().full_name(),
                method.is_client_streaming(),
                method.output().full_name(),
                method.is_server_streaming(),
            ),
        );
    }
}

// How either side writes a line.

fn field_line(
    name: &str,
    type_name: &str,
    kind: &str,
    label: &str,
    oneof: &str,
    deprecated: bool,
) -> String {
    format!(
        "name={name} type={type_name} kind={kind} label={label} oneof={oneof} \
         deprecated={deprecated}"
    )
}

fn method_line(
    path: &str,
    input: &str,
    client_stream: bool,
    output: &str,
    server_stream: bool,
) -> String {
    format!(
        "path={path} in={input} client_stream={client_stream} out={output} \
         server_stream={server_stream}"
    )
}

#[test]
fn contracts_are_spires_field_by_field() {
    let differences = differences(&wanted(&wire()), &compiled(&pool()));
    assert!(
        differences.is_empty(),
        "{} differences from SPIRE's wire facts:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// The comparison itself can fail, in both directions and for each kind of fact.
#[test]
fn comparison_names_every_altered_fact() {
    let facts = wanted(&wire());
    for subject in [
        "file workloadapi.proto",
        "message spire.api.types.Entry",
        "message spire.api.types.Entry field 16",
        "enum spire.api.types.PermissionDeniedDetails.Reason value 4",
        "service SpiffeWorkloadAPI method FetchX509SVID",
    ] {
        let what = &facts[subject];
        let mut less = facts.clone();
        less.remove(subject);
        let missing = format!("{subject}: missing, must be [{what}]");
        assert_eq!(differences(&facts, &less), [missing]);
        let extra = format!("{subject}: not SPIRE's, is [{what}]");
        assert_eq!(differences(&less, &facts), [extra]);

        let mut altered = facts.clone();
        altered.insert(subject.to_owned(), "altered".to_owned());
        let changed = format!("{subject}: is [altered], must be [{what}]");
        assert_eq!(differences(&facts, &altered), [changed]);
    }
}

#[test]
fn error_details_have_the_shape_grpc_gives_them() {
    let status = pool()
        .get_message_by_name("google.rpc.Status")
        .expect("defined here");
    let fields: Vec<_> = status
        .fields()
        .map(|field| {
            (
                field.number(),
                field.name().to_owned(),
                type_name(&field),
                field.is_list(),
            )
        })
        .collect();
    let field = |number, name: &str, type_name: &str, list| {
        (number, name.to_owned(), type_name.to_owned(), list)
    };
    assert_eq!(
        fields,
        [
            field(1, "code", "int32", false),
            field(2, "message", "string", false),
            field(3, "details", "google.protobuf.Any", true),
        ]
    );
}

#[test]
fn method_list_names_every_method_once() {
    let mut described: Vec<_> = pool()
        .services()
        .flat_map(|service| {
            service
                .methods()
                .map(|method| format!("/{}/{}", service.full_name(), method.name()))
                .collect::<Vec<_>>()
        })
        .collect();
    described.sort();
    assert_eq!(chancery_api::METHODS, described);

    for methods in section(&wire(), "services").values() {
        for method in items(methods) {
            let path = method["path"].as_str().expect("a string");
            assert!(chancery_api::METHODS.contains(&path), "{path} is missing");
        }
    }
}

/// The paths as they stand in the generated code, once where the server dispatches and once where
/// the client calls. Matters most for the Workload API, whose service has no package.
#[test]
fn generated_clients_and_servers_use_the_listed_paths() {
    let mut sources = String::new();
    for item in std::fs::read_dir(env!("OUT_DIR")).expect("the build wrote it") {
        let path = item.expect("the build wrote it").path();
        let generated = path.extension().is_some_and(|extension| extension == "rs");
        if generated && path.file_name().is_some_and(|name| name != "methods.rs") {
            sources.push_str(&std::fs::read_to_string(path).expect("the build wrote it"));
        }
    }
    let wrong: Vec<_> = chancery_api::METHODS
        .iter()
        .map(|path| (path, sources.matches(&format!("\"{path}\"")).count()))
        .filter(|(_, occurrences)| *occurrences != 2)
        .collect();
    assert!(wrong.is_empty(), "not exactly twice: {wrong:?}");

    use chancery_api::workload::spiffe_workload_api_server as workload;
    assert_eq!(workload::SERVICE_NAME, "SpiffeWorkloadAPI");
    assert!(sources.contains("\"/SpiffeWorkloadAPI/FetchX509SVID\" =>"));
}
