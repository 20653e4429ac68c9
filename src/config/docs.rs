//! `docs/configuration.md`, made of the table.

use super::{SETTINGS, Setting, groups};
use std::fmt::Write;

const HEAD: &str = r#"# Configuration

<!-- Made of src/config/table.rs. Do not edit: change the table, then run UPDATE_DOCS=1 cargo test --lib config::docs -->

Without any configuration Suzu listens on 127.0.0.1:8080. Every setting has one stem, and four places to stand in:

| place | looks like |
|---|---|
| a flag of `suzu serve` and `suzu check` | `--queue-delay-max 5ms` |
| an environment variable | `SUZU_QUEUE_DELAY_MAX=5ms` |
| a variable of an earlier system | `FLUSH_TIMEOUT=2000` (see the end of this page) |
| the file named by `--config FILE` or `SUZU_CONFIG` | `queue_delay_max = "5ms"` |

A place higher in this table beats the ones below it, and each beats the default. The file is TOML without sections:

```toml
host = "::1"
port = 9000
queue_delay_max = "5ms"
memory_max = "1GiB"
```

- A duration has a unit: `5ms`, `10s`, `1h 30m`. A number without one is an error.
- A size is in bytes, or has a unit: `4096`, `64KiB`, `1MiB`.
- An unknown key, flag or `SUZU_` variable is an error that names the nearest one that exists. Only the variables that
  Kubernetes sets for a service called suzu are left aside, with a warning.

`suzu check` reads all these places, says everything that is wrong at once, and otherwise prints the result and
where each value came from.
"#;

const TAIL: &str = r#"
## Variables of earlier systems

| variable | setting | a number without a unit is |
|---|---|---|
"#;

/// The whole page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, settings) in groups() {
        let _ = writeln!(page, "\n## {title}");
        for setting in settings {
            write_setting(&mut page, setting);
        }
    }
    page.push_str(TAIL);
    for setting in SETTINGS {
        for legacy in setting.legacy {
            let unit = if legacy.bare_unit.is_empty() { setting.unit } else { legacy.bare_unit };
            let _ = writeln!(page, "| `{}` | `{}` | {unit} |", legacy.variable, setting.name);
        }
    }
    page
}

fn write_setting(page: &mut String, setting: &Setting) {
    let _ = writeln!(page, "\n### `{}`\n\n{}\n", setting.name, setting.help());
    let _ = writeln!(page, "- Default: `{}`. {}", setting.in_file(setting.default), setting.why);
    let range = setting.range.map(|(min, max)| format!(", from `{min}` to `{max}`")).unwrap_or_default();
    let _ = writeln!(page, "- Unit: {}{range}.", setting.unit);
    let _ = writeln!(page, "- `{}`, `--{}`", setting.env(), setting.flag());
}

#[test]
fn the_page_about_configuration_is_equal_to_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/configuration.md is not what the table says; run: UPDATE_DOCS=1 cargo test --lib config::docs"
    );
}

#[test]
fn the_example_on_the_page_is_valid() {
    let start = HEAD.find("```toml\n").unwrap() + 8;
    let text = &HEAD[start..start + HEAD[start..].find("```").unwrap()];
    let sources = super::Sources { file: Some(("example", text)), ..super::Sources::default() };
    assert_eq!(super::resolve(sources).unwrap().config.port, 9000);
}
