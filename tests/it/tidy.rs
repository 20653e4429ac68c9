//! The rules of the house, each as a test: layers, the length of files and functions, no async runtime.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code that a file may have without its tests.
const FILE_LINES_MAX: usize = 700;
/// Lines that a function may have.
const FUNCTION_LINES_MAX: usize = 70;

/// Each module of the library with its layer. A file imports only from lower layers, or from its own module.
const LAYERS: &[(&str, u32)] = &[
    ("time", 0),
    ("id", 0),
    ("reason", 0),
    ("config", 0),
    ("pem", 0),
    ("wire", 1),
    ("model", 1),
    ("auth", 2),
    ("batch", 2),
    ("server", 3),
    ("driver", 4),
    ("client", 4),
    ("load", 5),
    ("cli", 6),
];

/// Uses within a layer that are meant: messages carry tensors as the models make them, and the client takes the time
/// from the driver's clock, the only reader of clocks.
const ALLOWED: &[(&str, &str)] =
    &[("wire", "model"), ("config", "reason"), ("id", "time"), ("config", "time"), ("client", "driver")];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let skipped = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !skipped {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every Rust file of these folders with its text.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for folder in folders.iter().map(|folder| root().join(folder)).filter(|folder| folder.exists()) {
        rust_files(&folder, &mut files);
    }
    assert!(!files.is_empty());
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// The text before the unit tests, which stand last.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

fn module_of(path: &Path) -> Option<String> {
    let inner = path.strip_prefix(root().join("src")).ok()?;
    let first = inner.components().next()?.as_os_str().to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

#[test]
fn a_file_imports_only_from_lower_layers() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&["src"]) {
        let module = module_of(&path).unwrap();
        let Some(own) = layer(&module) else { continue };
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            for used in code.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(theirs) = layer(&used) else { continue };
                let allowed = used == module || theirs < own || ALLOWED.contains(&(&module, &used));
                if !allowed {
                    wrong.push(format!("{}:{}: {module} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_library_has_its_layer() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: Vec<_> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 5);
    for module in modules {
        assert!(layer(module).is_some(), "give {module} a layer");
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for (path, text) in sources(&["src", "tests", "benches"]) {
        let lines = without_tests(&text).lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for (path, text) in sources(&["src", "tests", "benches"]) {
        for (name, lines) in functions(&text) {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: fn {name}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "over {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

/// Each function of formatted code with its number of lines: it ends where a brace stands as deep as its `fn`.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line) else { continue };
        let end = lines[start..].iter().position(|line| {
            let depth = line.len() - line.trim_start().len();
            depth == indent && line.trim_start().starts_with('}')
        });
        // Without a closing line it is a one-liner, or a signature in a trait.
        let one_line = line.trim_end().ends_with(';') || line.trim_end().ends_with('}');
        if let (Some(end), false) = (end, one_line) {
            found.push((name.to_owned(), end + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let code = ["pub(crate) ", "pub(super) ", "pub ", "const ", "unsafe ", "extern \"C\" "]
        .iter()
        .fold(code, |code, word| code.strip_prefix(word).unwrap_or(code));
    let name = code.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

#[test]
fn the_measure_of_functions_sees_long_ones() {
    let body = "    let x = 1;\n".repeat(80);
    let text = format!("pub fn long() {{\n{body}}}\nfn short() {{\n}}\n");
    assert_eq!(functions(&text), [("long".to_owned(), 82), ("short".to_owned(), 2)]);
}

#[test]
fn every_module_says_what_it_is() {
    for (path, text) in sources(&["src", "tests", "benches"]) {
        let begins = text.starts_with("//!") || text.starts_with("#![");
        assert!(begins, "{} begins without a //! page", path.display());
    }
}

/// From the manifest and the lock file, as `cargo tree` would have to download what no build here needs.
#[test]
fn no_async_runtime_is_in_the_normal_tree() {
    let read = |file: &str| -> toml::Table {
        let text = std::fs::read_to_string(root().join(file)).expect("it is part of the repository");
        text.parse().unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let lock = read("Cargo.lock");
    let packages = lock["package"].as_array().expect("a list of packages");
    let mut tree: Vec<String> =
        read("Cargo.toml")["dependencies"].as_table().expect("a table").keys().cloned().collect();
    let mut index = 0;
    while let Some(name) = tree.get(index).cloned() {
        let versions = packages.iter().filter(|package| package["name"].as_str() == Some(&name));
        let below = versions.filter_map(|package| package.get("dependencies")?.as_array()).flatten();
        for dependency in below.filter_map(toml::Value::as_str) {
            // Where there are several versions the name is followed by one.
            let name = dependency.split(' ').next().unwrap_or_default();
            if tree.iter().all(|known| known != name) {
                tree.push(name.to_owned());
            }
        }
        index += 1;
    }
    assert!(tree.len() > 100 && tree.iter().any(|name| name == "libloading"), "optional ones too: {tree:?}");
    for runtime in ["tokio", "async-std", "smol"] {
        let found = tree.iter().find(|name| name.contains(runtime));
        assert!(found.is_none(), "{found:?} is in the normal dependency tree");
    }
}

#[test]
fn only_the_drivers_clock_reads_the_clock() {
    for (path, text) in sources(&["src"]) {
        let is_clock = path.ends_with("driver/clock.rs");
        let reads = without_tests(&text).contains("Instant::now()");
        assert!(is_clock || !reads, "{} reads the clock", path.display());
    }
}
