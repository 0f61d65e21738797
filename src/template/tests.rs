//! What people write, and what is wrong.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn render(template: &str) -> Result<String, TemplateError> {
    let value = json!({
        "ID": "abc", "Names": "web", "Labels": "a=1,b=2", "N": 3, "Binds": null, "Health": null,
        "State": {"Pid": 7, "Running": true, "Error": ""},
        "Mounts": [{"Source": "/a"}, {"Source": "/b"}], "Env": ["A=1", "B=2"],
        "Map": {"k": "v", "80/tcp": [{"HostPort": "8080"}], "a": 1.5},
        "Config": {"Labels": {"l": "x"}, "Volumes": null},
        "Ports": {"81/udp": null, "80/tcp": [{"HostPort": "8080"}]},
    });
    Template::parse(template)?.render(&value, Missing::Entry)
}

#[test]
fn what_people_write() {
    for (template, wanted) in [
        ("{{.ID}}: {{.Names}}", "abc: web"),
        ("{{.State.Pid}} {{.State.Running}} {{.id}}", "7 true abc"),
        ("{{json .State}}", r#"{"Pid":7,"Running":true,"Error":""}"#),
        ("{{.Env}} {{.Map.k}}", "[A=1 B=2] v"),
        (
            "{{range .Mounts}}{{.Source}} {{$.ID}};{{end}}",
            "/a abc;/b abc;",
        ),
        (
            "{{if .State.Error}}x{{else if .State.Running}}y{{else}}z{{end}}",
            "y",
        ),
        ("{{range .Binds}}x{{else}}none{{end}}", "none"),
        (
            "{{join .Env \",\"}}|{{upper .Names}}|{{.Names | title}}",
            "A=1,B=2|WEB|Web",
        ),
        ("{{(index (index .Map \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{.Label \"b\"}}{{.Label \"nosuch\"}}", "2"),
        ("{{if eq .N 3}}three{{end}}{{ len .Env }}", "three2"),
        ("a {{- .N -}} b", "a3b"),
        ("{{with .State}}{{.Pid}}{{end}}{{/* nothing */}}", "7"),
        ("{{println .ID}}{{truncate .ID 2}}{{\"}}\"}}", "abc\nab}}"),
        ("plain", "plain"),
        (
            "{{range $p, $c := .Ports}}{{$p}} -> {{if $c}}{{(index $c 0).HostPort}}{{end}};{{end}}",
            "80/tcp -> 8080;81/udp -> ;",
        ),
        (
            "{{range $i, $e := .Env}}{{$i}}={{$e}} {{end}}{{range $e := .Env}}{{$e}}{{end}}",
            "0=A=1 1=B=2 A=1B=2",
        ),
        (
            "{{$x := .N}}{{with $y := .ID}}{{$y}}{{$x}}{{$.Names}}{{end}}{{$x = 4}}{{$x}}",
            "abc3web4",
        ),
        (
            "{{with .Binds}}x{{else with .ID}}{{.}}{{end}}{{if gt .N 2}}{{if lt 2 .N}}y{{end}}{{end}}",
            "abcy",
        ),
        (
            "{{printf \"%s=%d|%5d|%-4s|%05d|%.2f|%q|%%|%v\" .ID .N .N .ID .N .Map.a .ID .State.Running}}",
            "abc=3|    3|abc |00003|1.50|\"abc\"|%|true",
        ),
        (
            "{{slice .ID 1}}{{slice .ID 0 1}}{{print .N .N}}{{print .ID .N}}",
            "bca3 3abc3",
        ),
        // By Go's types, which JSON does not tell.
        (
            "{{.Binds}} {{.Health}} {{.Config.Volumes}}",
            "[] <nil> map[]",
        ),
        (
            "{{index .Config.Labels \"l\"}}{{index .Config.Labels \"m\"}}",
            "x",
        ),
        (
            "{{.Config.Labels.m}} {{index .Ports \"82/tcp\"}}",
            "<no value> []",
        ),
        ("{{.Map}}", "map[80/tcp:[map[HostPort:8080]] a:1.5 k:v]"),
        // What an answer leaves out where it is empty.
        (
            "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}} {{.State.Health}}",
            "none <nil>",
        ),
        (
            "{{.Config.Healthcheck}} {{.Config.Shell}} {{.Config.ExposedPorts}} \
             [{{.Config.StopSignal}}] {{.SizeRw}} {{.Config.ArgsEscaped}}",
            "<nil> [] map[] [] <nil> false",
        ),
        (
            "{{and .State.Health .State.Health.Status}} {{or .ID .Nosuch}} {{and .ID .N}} \
             {{or .State.Error .N}}",
            "<nil> abc 3 3",
        ),
        ("a {{-\t.N\t-}} b {{-\n/* \" */ -}} c", "a3bc"),
        (r#"{{"\x41\u00e9\101\a"}}"#, "Aé\u{41}\u{7}"),
    ] {
        let found = render(template).unwrap_or_else(|error| panic!("{template}: {error}"));
        assert_eq!(found, wanted, "{template}");
    }
}

#[test]
fn what_is_wrong_is_said_in_gos_words() {
    for (template, message) in [
        (
            "{{.Nosuch}}",
            "template: :1:2: executing \"\" at <.Nosuch>: map has no entry for key \"Nosuch\"",
        ),
        (
            "x\n {{.State.Nosuch}}",
            "template: :2:9: executing \"\" at <.State.Nosuch>: map has no entry for key \"Nosuch\"",
        ),
        (
            "{{.ID.X}}",
            "template: :1:5: executing \"\" at <.ID.X>: can't evaluate field X in type interface {}",
        ),
        (
            "{{index .Env 5}}",
            "template: :1:2: executing \"\" at <index .Env 5>: error calling index: index out of range: 5",
        ),
        (
            "{{range .ID}}{{end}}",
            "template: :1:8: executing \"\" at <.ID>: range can't iterate over abc",
        ),
        (
            "{{.Names | printf \"%d\" | (len .Env).X}}",
            "template: :1:35: executing \"\" at <(len .Env).X>: can't give argument to non-function (len .Env).X",
        ),
        (
            "{{nosuch .ID}}",
            "template: :1: function \"nosuch\" not defined",
        ),
        ("\n{{$x}}", "template: :2: undefined variable \"$x\""),
        (
            "{{if $y := .ID}}{{end}}{{$y}}",
            "template: :1: undefined variable \"$y\"",
        ),
        ("{{.ID", "template: :1: unclosed action"),
        ("{{if .ID}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{}}", "template: :1: missing value for command"),
        ("{{(.ID}}", "template: :1: unclosed left paren"),
    ] {
        let error = render(template).unwrap_err().to_string();
        assert_eq!(error, message, "{template}");
    }
    let rows = Template::parse("{{.X}}").unwrap();
    assert_eq!(
        rows.render(&json!({}), Missing::Field("*formatter.ContainerContext"))
            .unwrap_err()
            .to_string(),
        "template: :1:2: executing \"\" at <.X>: can't evaluate field X in type \
         *formatter.ContainerContext"
    );
    for template in [
        "{{",
        "{{|}}",
        "{{else}}",
        "{{if .ID}}{{else}}{{else}}{{end}}",
        "{{$x,}}",
    ] {
        assert!(render(template).is_err(), "{template}");
    }
    let deep = "{{".to_owned() + &"(".repeat(100_000);
    assert!(render(&(deep + ".ID}}")).is_err());
}

#[test]
fn headings_stay_as_they_are() {
    let headings = json!({"Names": "NAMES"});
    let template = Template::parse("{{lower .Names}} {{pad .Names 1 0}}").unwrap();
    assert_eq!(template.render_headings(&headings).unwrap(), "NAMES  NAMES");
}

proptest! {
    #[test]
    fn never_panics(
        template in "(\\{\\{|\\}\\}|if |end|else|with |range|\\.|\\(|\\)|\"|-|:=|,|printf|%|[a-zA-Z$| 0-9]){0,24}"
    ) {
        let _ = render(&template);
    }
}
