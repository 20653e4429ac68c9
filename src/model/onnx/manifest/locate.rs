//! Where in a `model.toml` the reader stumbled: line, section and key, in one line of text.

/// `model.toml:12: audio.hop: invalid type: string "x", expected usize`
pub(super) fn tell(file: &str, text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    let Some(span) = error.span() else { return format!("{file}: {message}") };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count();
    let section = text.lines().take(number + 1).filter_map(section).last();
    let line = text.lines().nth(number).unwrap_or_default();
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|_| self::section(line).is_none());
    let place: Vec<_> = section.into_iter().chain(key).collect();
    let place = place.join(".");
    let colon = if place.is_empty() { "" } else { ": " };
    format!("{file}:{}: {place}{colon}{message}", number + 1)
}

/// The name in `[name]` or `[[name]]`.
fn section(line: &str) -> Option<&str> {
    let line = line.trim();
    let name = line.strip_prefix('[')?.split(']').next()?;
    Some(name.trim_start_matches('[').trim())
}
