//! `suzu token`: makes what credentials are made of. Talks to no server and reads no clock but to say when things end.

use super::{Error, print};
use crate::auth::{self, ALGORITHMS, NewToken, Scopes};
use crate::client::Url;
use crate::driver::Clock;
use crate::wire::http::Method;
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};
use percent_encoding::percent_decode_str;
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Random bytes of an API key: as many as its hash has.
const KEY_BYTES: usize = 32;

const EXAMPLES: &str = "\
Examples:
  suzu token key --id kiosk --scopes \"stream infer\" --append credentials.toml
  SECRET=$(openssl rand -hex 32) suzu token jwt --secret-env SECRET --subject alice --expires-in 1h
  suzu token jwt --algorithm ES256 --private-key-file es256.pem --subject alice
  suzu token url --id backend --secret-file secret \"ws://127.0.0.1:8080/v1/stream?model=vad\"";

pub(super) fn command() -> Command {
    Command::new("token")
        .about("Make credentials: API keys, JSON Web Tokens, signed URLs")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .subcommand(key_command())
        .subcommand(jwt_command())
        .subcommand(url_command())
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn file(name: &'static str, help: &'static str) -> Arg {
    option(name, "FILE", help).value_parser(ValueParser::path_buf())
}

/// Where the secret is: never on the command line, which others can see.
fn secret_args(variable: &'static str, path: &'static str) -> [Arg; 2] {
    [option("secret-env", "NAME", variable), file("secret-file", path).conflicts_with("secret-env")]
}

fn expires_in(default: &'static str) -> Arg {
    option("expires-in", "TIME", "How long it holds, such as 5min or 12h")
        .default_value(default)
        .value_parser(humantime::parse_duration)
}

fn key_command() -> Command {
    Command::new("key")
        .about("Make an API key, and the entry with its hash for the file of credentials")
        .arg(option("id", "ID", "Its name: letters, digits, - and _").required(true))
        .arg(
            option("scopes", "WORDS", "What it is for: stream, infer, admin, metrics")
                .default_value("stream infer"),
        )
        .arg(option("user", "NAME", "Whose it is, if several keys belong to one user [default: the id]"))
        .arg(file("append", "Append the entry to this file and print the key alone"))
}

fn jwt_command() -> Command {
    Command::new("jwt")
        .about("Make a JSON Web Token")
        .arg(option("subject", "NAME", "The user").required(true))
        .arg(
            option("algorithm", "NAME", "How it is signed")
                .default_value("HS256")
                .value_parser(ALGORITHMS.map(|(name, _)| name)),
        )
        .args(secret_args("HS256: the variable that has the secret", "HS256: the file that has the secret"))
        .arg(
            file("private-key-file", "The others: the private key, a PEM file")
                .conflicts_with_all(["secret-env", "secret-file"]),
        )
        .arg(option("scope", "WORDS", "What it is for [default: what the server's entry says]"))
        .arg(option("audience", "NAME", "Whom it is for"))
        .arg(option("issuer", "NAME", "Who makes it"))
        .arg(option("key-id", "NAME", "The name of the key, if the server has several"))
        .arg(expires_in("1h"))
}

fn url_command() -> Command {
    Command::new("url")
        .about("Sign a URL, which can then be opened once")
        .arg(Arg::new("url").value_name("URL").required(true).help("ws:// or http://, with its query"))
        .arg(option("id", "ID", "The signer's name in the file of credentials").required(true))
        .args(secret_args("The variable that has the secret", "The file that has the secret"))
        .arg(option("method", "NAME", "The method").default_value("GET").value_parser(["GET", "POST"]))
        .arg(expires_in("5min"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Error> {
    match matches.subcommand() {
        Some(("key", matches)) => key(matches),
        Some(("jwt", matches)) => jwt(matches),
        Some(("url", matches)) => url(matches),
        _ => Err(Error::usage("say what to make; see `suzu token --help`")),
    }
}

fn text<'m>(matches: &'m ArgMatches, name: &str) -> Option<&'m str> {
    matches.get_one::<String>(name).map(String::as_str)
}

fn required<'m>(matches: &'m ArgMatches, name: &str) -> &'m str {
    text(matches, name).expect("the argument is required or has a default")
}

/// Seconds since 1970 now, and when what is made ends.
fn times(matches: &ArgMatches) -> (u64, u64) {
    let now = Clock::new().now().unix_ms / 1000;
    let lifetime: &Duration = matches.get_one("expires-in").expect("it has a default");
    (now, now.saturating_add(lifetime.as_secs()))
}

fn key(matches: &ArgMatches) -> Result<(), Error> {
    let id = required(matches, "id");
    auth::check_id(id).map_err(|problem| Error::usage(format!("--id {id}: {problem}")))?;
    let scopes = Scopes::parse(required(matches, "scopes").split_whitespace())
        .map_err(|problem| Error::usage(format!("--scopes: {problem}")))?;
    let mut random = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| Error::failed("the system gives no random bytes"))?;
    let key = format!("{id}.{}", data_encoding::BASE64URL_NOPAD.encode(&random));
    let mut entry = auth::key_entry(&key, scopes);
    if let Some(user) = text(matches, "user") {
        // A string of JSON is one of TOML.
        entry.push_str(&format!("user = {}\n", serde_json::Value::from(user)));
    }
    match matches.get_one::<PathBuf>("append") {
        Some(path) => {
            append(path, &entry)?;
            print(&format!("{key}\n"))
        }
        None => print(&format!(
            "The key, which is shown this once:\n  {key}\n\nIts entry for the file of credentials:\n\n{entry}"
        )),
    }
}

fn append(path: &Path, entry: &str) -> Result<(), Error> {
    let failed = |error| Error::failed(format!("cannot append to {}: {error}", path.display()));
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    let empty = file.metadata().map_err(failed)?.len() == 0;
    let gap = if empty { "" } else { "\n" };
    file.write_all(format!("{gap}{entry}").as_bytes()).map_err(failed)
}

fn jwt(matches: &ArgMatches) -> Result<(), Error> {
    let name = required(matches, "algorithm");
    let algorithm = auth::algorithm(name).expect("clap takes no other name");
    let key = match matches.get_one::<PathBuf>("private-key-file") {
        Some(path) => read(path)?,
        None if name == "HS256" => secret(matches)?,
        None => return Err(Error::usage(format!("{name} needs --private-key-file"))),
    };
    if name == "HS256" && matches.contains_id("private-key-file") {
        return Err(Error::usage(
            "HS256 needs --secret-env or --secret-file; for a private key say --algorithm",
        ));
    }
    if let Some(scope) = text(matches, "scope") {
        Scopes::parse(scope.split_whitespace())
            .map_err(|problem| Error::usage(format!("--scope: {problem}")))?;
    }
    let (iat, exp) = times(matches);
    let token = NewToken {
        sub: required(matches, "subject").to_owned(),
        exp,
        iat,
        scope: text(matches, "scope").map(str::to_owned),
        aud: text(matches, "audience").map(str::to_owned),
        iss: text(matches, "issuer").map(str::to_owned),
    };
    let key_id = text(matches, "key-id").map(str::to_owned);
    let token = auth::mint(&token, algorithm, &key, key_id).map_err(Error::failed)?;
    print(&format!("{token}\n"))
}

fn url(matches: &ArgMatches) -> Result<(), Error> {
    let given = required(matches, "url");
    let parsed = Url::parse(given).map_err(|error| Error::usage(error.to_string()))?;
    let (_, expires) = times(matches);
    let mut query: Vec<(String, String)> =
        form_urlencoded::parse(parsed.query.as_bytes()).into_owned().collect();
    query.push(("key_id".into(), required(matches, "id").into()));
    query.push(("expires".into(), expires.to_string()));
    let method = if required(matches, "method") == "POST" { Method::Post } else { Method::Get };
    let path = percent_decode_str(&parsed.path).decode_utf8_lossy();
    let signature = auth::sign(&secret(matches)?, method, &path, &query);
    query.push(("signature".into(), signature));
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&query).finish();
    let scheme = given.split("://").next().unwrap_or("ws");
    print(&format!("{scheme}://{}{}?{query}\n", parsed.authority(), parsed.path))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))
}

/// The secret that the options name.
fn secret(matches: &ArgMatches) -> Result<Vec<u8>, Error> {
    match (text(matches, "secret-env"), matches.get_one::<PathBuf>("secret-file")) {
        (Some(name), _) => auth::secret_of_variable(name),
        (None, Some(path)) => auth::secret_of_file(path),
        (None, None) => Err("say where it is by --secret-env or --secret-file".into()),
    }
    .map_err(|problem| Error::usage(format!("there is no secret to sign with: {problem}")))
}
