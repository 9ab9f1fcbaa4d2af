use super::*;

fn text(value: &str) -> Kind {
    Kind::Text(value.to_owned())
}

fn number(value: &str) -> Kind {
    Kind::Number(value.to_owned())
}

/// Items without positions, for comparing.
fn shape(items: &[Item]) -> String {
    let one = |item: &Item| format!("{}={}", item.key, value_shape(&item.value));
    items.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn value_shape(value: &Value) -> String {
    match &value.kind {
        Kind::Text(text) => format!("{text:?}"),
        Kind::Number(text) => text.clone(),
        Kind::Bool(value) => value.to_string(),
        Kind::Null => "null".to_owned(),
        Kind::List(values) => {
            let values: Vec<_> = values.iter().map(value_shape).collect();
            format!("[{}]", values.join(" "))
        }
        Kind::Object(items) => format!("{{{}}}", shape(items)),
    }
}

fn read(text: &str) -> String {
    match parse(text) {
        Ok(items) => shape(&items),
        Err(error) => panic!("{error}\n{text}"),
    }
}

fn refused(text: &str) -> String {
    match parse(text) {
        Ok(items) => panic!("read as {}", shape(&items)),
        Err(error) => error.to_string(),
    }
}

#[test]
fn blocks_labels_and_assignments_are_one_thing() {
    let nested = "plugins={DataStore={sql={plugin_data={}}}}";
    for written in [
        "plugins { DataStore \"sql\" { plugin_data {} } }",
        "plugins { DataStore sql { plugin_data = {} } }",
        "plugins = { \"DataStore\" = { \"sql\" = { \"plugin_data\" = {} } } }",
        "\"plugins\" \"DataStore\" \"sql\" \"plugin_data\" {\n}",
        "{\"plugins\": {\"DataStore\": {\"sql\": {\"plugin_data\": {}}}}}",
    ] {
        assert_eq!(read(written), nested, "{written}");
    }
}

#[test]
fn items_need_neither_lines_nor_commas_and_may_have_both() {
    let expected = "a=1 b=\"x\" c={d=true e=false}";
    for written in [
        "a=1 b=\"x\" c{d=true e=false}",
        "a = 1,\nb = \"x\",\nc {\n  d = true,\n  e = false,\n}\n",
        "# one\na = 1 // two\n/* three\n * lines */ b = \"x\" /**/ c { d = true # four\n e = false }",
        "a = 1\r\nb = \"x\"\r\nc {\r\n\td = true\r\n\te = false\r\n}\r\n",
        "\u{feff}a=1 b=\"x\" c={d=true e=false}",
    ] {
        assert_eq!(read(written), expected, "{written}");
    }
}

#[test]
fn lists_may_end_with_a_comma_and_hold_anything() {
    assert_eq!(
        read("a = [\"x\", 1, true, [2], {b = 3},\n  # end\n]\nc = []"),
        "a=[\"x\" 1 true [2] {b=3}] c=[]"
    );
    assert!(refused("a = [1 2]").contains("expected ',' or ']', found the number 2"));
    assert!(refused("a = [1, ").starts_with("line 1, column 5: "));
}

#[test]
fn numbers_are_kept_as_written() {
    assert_eq!(
        read("a=8081 b=-7 c=0x1F d=0755 e=1.5 f=1e3 g=0 h=-2.5e-3"),
        "a=8081 b=-7 c=0x1F d=0755 e=1.5 f=1e3 g=0 h=-2.5e-3"
    );
    for wrong in [
        "a = 10m",
        "a = 127.0.0.1",
        "a = 089",
        "a = 0x",
        "a = -",
        "a = 1e",
    ] {
        assert!(refused(wrong).contains("is no number"), "{wrong}");
    }
}

#[test]
fn strings_have_go_s_escapes() {
    let items = parse(r#"a = "q\" \\ \t\n \101 \x41 é \U0001F600 #//""#).unwrap();
    assert_eq!(items[0].value.kind, text("q\" \\ \t\n A A é 😀 #//"));
    // Templates of another language and what looks like interpolation are left alone.
    let items = parse(r#"a = "{{ .Subject.CommonName }}" b = "${env("X")}\n""#).unwrap();
    assert_eq!(items[0].value.kind, text("{{ .Subject.CommonName }}"));
    assert_eq!(items[1].value.kind, text("${env(\"X\")}\n"));
    for wrong in [
        r#"a = "\q""#,
        r#"a = "\x4""#,
        r#"a = "\400""#,
        r#"a = "\ud800""#,
        r#"a = "\xff""#,
        "a = \"no end\nb = 1",
        "a = \"no end",
        "a = \"${ no end\"",
        "a = 'x'",
    ] {
        refused(wrong);
    }
}

#[test]
fn here_documents_keep_their_lines() {
    let items = parse("a = <<EOF\n  one\ntwo \"q\"\nEOF\nb = 1").unwrap();
    assert_eq!(items[0].value.kind, text("  one\ntwo \"q\"\n"));
    assert_eq!(items[1].value.kind, number("1"));
    assert_eq!(items[1].at.line, 5);
    let items = parse("a = <<-END\n    one\n      two\n    END\n").unwrap();
    assert_eq!(items[0].value.kind, text("one\n  two\n"));
    // A line with less indentation than the end: nothing is taken off.
    let items = parse("a = <<-END\n  one\n    two\n    END").unwrap();
    assert_eq!(items[0].value.kind, text("  one\n    two\n"));
    assert!(refused("a = <<EOF\none\n").contains("needs a line EOF"));
    refused("a = <<\nb");
    refused("a = < 1");
}

#[test]
fn json_is_read_in_its_own_rules() {
    let items = parse(
        "\n {\"server\": {\"bind_port\": 8081, \"x\": null,\n \"y\": \"\\ud83d\\ude00\\/\"}, \
         \"plugins\": {\"KeyManager\": [{\"memory\": {\"plugin_data\": {}}}]}}\n",
    )
    .unwrap();
    assert_eq!(
        shape(&items),
        "server={bind_port=8081 x=null y=\"😀/\"} plugins={KeyManager=[{memory={plugin_data={}}}]}"
    );
    assert_eq!(items[0].at, Position { line: 2, column: 3 });
    for wrong in [
        "{\"a\" = 1}",
        "{a: 1}",
        "{\"a\": {} } b",
        "{\"a\" {}}",
        "{\"a\": \"\\q\"}",
        "{\"a\": # x\n 1}",
        "{",
    ] {
        refused(wrong);
    }
}

#[test]
fn mistakes_are_told_where_they_are() {
    for (written, told) in [
        (
            "server {\n  a = 1\n",
            "line 1, column 8: the brace that opens here is not closed",
        ),
        ("a = 1\n}", "line 2, column 1: expected a key, found '}'"),
        (
            "a = 1\nb 2",
            "line 2, column 3: expected '=' or '{' after \"b\", found the number 2",
        ),
        ("a = b", "line 1, column 5: \"b\" needs quotes"),
        (
            "a \"b\" = 1",
            "line 1, column 7: expected '=' or '{' after \"b\", found '='",
        ),
        ("= 1", "line 1, column 1: expected a key, found '='"),
        (
            "a = ",
            "line 1, column 5: expected a value, found the end of the file",
        ),
        (
            "a = 1 /* x",
            "line 1, column 7: the comment that begins here does not end",
        ),
        ("a = %", "line 1, column 5: '%' does not belong here"),
        ("true = 1", "line 1, column 1: expected a key, found true"),
    ] {
        assert_eq!(refused(written), told, "{written}");
    }
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!("a = {}1{}", open.repeat(levels), close.repeat(levels))
    };
    read(&nested("[", "]", DEPTH_MAX - 1));
    assert!(refused(&nested("[", "]", DEPTH_MAX)).contains("deeper"));
    assert!(refused(&nested("[", "]", 400_000)).contains("deeper"));
    assert!(refused(&"a ".repeat(400_000)).contains("deeper"));
    assert!(refused(&"a{".repeat(400_000)).contains("deeper"));
    assert!(refused(&"{\"a\":".repeat(200_000)).contains("deeper"));
    let largest = format!("a = \"{}\"", "x".repeat(BYTES_MAX - 6));
    read(&largest);
    assert!(refused(&format!("{largest} ")).contains("larger"));
}
