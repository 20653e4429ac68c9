//! The folder of models: `<root>/<name>/<version>/model.onnx`, with a `model.toml` beside it.
//!
//! Owns the search for models and the way from a folder to a model that can be served. It starts no thread of its own
//! and keeps nothing open; the server's loader asks it, and the commands that explain models do. Names may come from
//! strangers: none leads out of the root, neither by itself nor by a symbolic link.
//!
//! What else lies in the root or in a model's folder (a README, training scripts, samples) is left alone.

use super::guard::Trial;
use super::onnx::{
    self, Batching, Calibration, ENGINE_PANICKED, Engine, EngineKind, Graph, MANIFEST_FILE, Manifest,
    ModelOptions, open_model,
};
use super::{Served, warm_up};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The name of the ONNX file within a version's folder.
pub const MODEL_FILE: &str = "model.onnx";

/// The longest name.
const NAME_BYTES_MAX: usize = 64;
/// The longest `model.toml`: one with a list of 2,000 labels has 40 kB.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Rows of the largest call that is tried where neither server nor model says how many.
const ROWS_MAX: usize = 32;

/// Tells the time since any origin.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How models are loaded.
#[derive(Clone)]
pub struct RepositoryOptions {
    /// The engine for models whose `model.toml` names no platform.
    pub engine: EngineKind,
    /// Path of `libonnxruntime.so`; `None`: where the system looks for libraries.
    pub library: Option<PathBuf>,
    /// Rows in one batch at most, whatever a model says.
    pub batch_max: usize,
    /// Elements of one request's inputs, and of its outputs, where a model does not say.
    pub elements_max: usize,
    /// How to try a model before it is loaded; `None`: not at all, for programs that trust their files.
    pub trial: Option<Trial>,
    /// With a clock it is measured at which number of rows a call is fastest, and no more rows share one, unless
    /// `model.toml` says so. About 50 ms for each size.
    pub clock: Option<Clock>,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            library: None,
            batch_max: ROWS_MAX,
            // 64 MiB of floats.
            elements_max: 16 << 20,
            trial: None,
            clock: None,
        }
    }
}

/// A folder of models. It need not be there: then there are none.
#[derive(Clone)]
pub struct Repository {
    root: PathBuf,
    options: RepositoryOptions,
}

/// A model in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its name.
    pub name: String,
    /// The highest of its versions, which is the one that is served.
    pub version: u32,
    /// The folder of that version.
    pub folder: PathBuf,
}

/// What is in the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The models, in the order of their names.
    pub entries: Vec<IndexEntry>,
    /// Folders that look like models and are not served, each with the reason.
    pub ignored: Vec<String>,
}

/// A model as it was loaded, with what was found out on the way.
pub struct Loaded {
    /// The model.
    pub served: Served,
    /// What its `model.toml` says, or the default.
    pub manifest: Manifest,
    /// Whether there is a `model.toml`.
    pub has_manifest: bool,
    /// The graph beneath, for those who explain it.
    pub graph: Graph,
    /// How fast calls are; `None` if it was not measured.
    pub calibration: Option<Calibration>,
}

impl Repository {
    /// The folder at `root`; nothing is read yet.
    pub fn new(root: impl Into<PathBuf>, options: RepositoryOptions) -> Self {
        Self { root: root.into(), options }
    }

    /// The models that are there, in the order of their names.
    ///
    /// # Errors
    /// That the folder cannot be read. One that does not exist is empty.
    pub fn index(&self) -> Result<Vec<IndexEntry>, String> {
        self.survey().map(|survey| survey.entries)
    }

    /// The models that are there, and what was passed over.
    ///
    /// # Errors
    /// As [`Repository::index`].
    pub fn survey(&self) -> Result<Survey, String> {
        let mut survey = Survey::default();
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(survey),
            entries => entries.map_err(|error| cannot_read(&self.root, &error))?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| cannot_read(&self.root, &error))?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        folders.sort();
        for folder in folders {
            let name = shown(&folder);
            // What is hidden is meant to be passed over.
            if name.starts_with('.') {
                continue;
            }
            // A name that cannot be served is refused before its folder is looked into.
            let found = if is_name(&name) { self.find(&name) } else { self.version(&name, 1) };
            match found {
                Ok(entry) => survey.entries.push(entry),
                Err(why) => survey.ignored.push(why),
            }
        }
        Ok(survey)
    }

    /// Loads the highest version of a model: tries it in a process of its own if the options say so, opens it, tries it
    /// with one and two rows, measures it, and warms up the sizes of batches in use. Takes seconds.
    ///
    /// # Errors
    /// What is wrong, with which file, and what to do, for people.
    pub fn load(&self, name: &str) -> Result<Served, String> {
        if !is_name(name) {
            // What a stranger sent may be long; the message need not be.
            let name: String = name.chars().take(NAME_BYTES_MAX).collect();
            return Err(format!("`{name}` is not the name of a model"));
        }
        self.load_entry(&self.find(name)?).map(|loaded| loaded.served)
    }

    /// Loads every model that is there, one after the other. A folder that cannot be read is told under its own path.
    pub fn load_all(&self) -> Vec<(String, Result<Served, String>)> {
        let load = |entry: IndexEntry| {
            let loaded = self.load_entry(&entry).map(|loaded| loaded.served);
            (entry.name, loaded)
        };
        match self.index() {
            Ok(entries) => entries.into_iter().map(load).collect(),
            Err(why) => vec![(self.root.display().to_string(), Err(why))],
        }
    }

    /// Loads one version of a model, wherever it is.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub fn load_entry(&self, entry: &IndexEntry) -> Result<Loaded, String> {
        let file = entry.folder.join(MODEL_FILE);
        if let Some(trial) = &self.options.trial {
            trial.run(&entry.folder).map_err(|why| named(&file, &why))?;
        }
        let (manifest, has_manifest) = read_manifest(&entry.folder)?;
        let kind = manifest.platform.unwrap_or(self.options.engine);
        let mut engine = onnx::open(&file, kind, self.options.library.as_deref())?;
        let mut options = ModelOptions {
            elements_max: self.options.elements_max,
            file_bytes: folder_bytes(&entry.folder)?,
            costs: Vec::new(),
        };
        let open = |manifest: &Manifest, options: &ModelOptions, engine: &Arc<dyn Engine>| {
            open_model(&entry.name, entry.version, manifest, Arc::clone(engine), options)
                .map_err(|why| named(&file, &why))
        };
        let mut manifest = manifest;
        let mut served = match open(&manifest, &options, &engine) {
            Err(why) if kind == EngineKind::Rten && why.contains(ENGINE_PANICKED) => {
                engine = onnx::open_unoptimized(&file)?;
                let served = open(&manifest, &options, &engine)?;
                log::warn!("served with its operators as they are, which may be slower: {why}");
                served
            }
            opened => opened?,
        };
        let mut graph = graph(&engine, &manifest).map_err(|why| named(&file, &why))?;
        let most = self.options.batch_max.min(manifest.batch.max.unwrap_or(ROWS_MAX)).max(1);
        let sizes = sizes(most, &manifest.batch.preferred);
        let calibration = match &self.options.clock {
            Some(clock) => Some(
                warm_up::calibrate(&served, &graph, &sizes, &**clock).map_err(|why| named(&file, &why))?,
            ),
            None => None,
        };
        let best = calibration.as_ref().map(|calibration| calibration.best);
        if let (Some(calibration), Batching::Shared { .. }) = (&calibration, graph.batching()) {
            options.costs.clone_from(&calibration.table);
            if manifest.batch.preferred.is_empty() && manifest.batch.max.is_none() {
                manifest.batch.max = Some(calibration.best);
                graph = self::graph(&engine, &manifest).map_err(|why| named(&file, &why))?;
            }
            served = open(&manifest, &options, &engine)?;
        }
        let used: Vec<usize> =
            sizes.into_iter().filter(|rows| best.is_none_or(|best| *rows <= best)).collect();
        warm_up::warm_up(&served, &graph, &used).map_err(|why| named(&file, &why))?;
        Ok(Loaded { served, manifest, has_manifest, graph, calibration })
    }

    /// The highest version of a model.
    fn find(&self, name: &str) -> Result<IndexEntry, String> {
        let folder = self.root.join(name);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "there is no model `{name}` in `{}`; put it into `{}`",
                    self.root.display(),
                    folder.join("1").join(MODEL_FILE).display()
                ));
            }
            entries => entries.map_err(|error| cannot_read(&folder, &error))?,
        };
        let mut versions: Vec<u32> = entries
            .filter_map(|entry| version_of(entry.ok()?.file_name().to_str()?))
            .filter(|version| folder.join(version.to_string()).join(MODEL_FILE).exists())
            .collect();
        versions.sort_unstable();
        match versions.pop() {
            Some(version) => self.version(name, version),
            None => Err(format!(
                "`{}` has no version: put the model into `{}`",
                folder.display(),
                folder.join("1").join(MODEL_FILE).display()
            )),
        }
    }

    /// One version of a model.
    ///
    /// # Errors
    /// That its name cannot be served, that it is not there, or that it leads out of the root.
    pub fn version(&self, name: &str, version: u32) -> Result<IndexEntry, String> {
        let folder = self.root.join(name);
        if !is_name(name) {
            return Err(format!(
                "`{}` cannot be served: the name of a model has 1 to {NAME_BYTES_MAX} of the letters \
                 A-Z a-z 0-9 _ . - and does not begin with a dot; rename the folder",
                folder.display()
            ));
        }
        let folder = folder.join(version.to_string());
        if !folder.join(MODEL_FILE).exists() {
            return Err(format!("`{}` is not there", folder.join(MODEL_FILE).display()));
        }
        for file in [MODEL_FILE, MANIFEST_FILE] {
            self.check_within(&folder.join(file))?;
        }
        Ok(IndexEntry { name: name.to_owned(), version, folder })
    }

    /// Refuses what a symbolic link puts elsewhere.
    fn check_within(&self, file: &Path) -> Result<(), String> {
        let root = self.root.canonicalize().map_err(|error| cannot_read(&self.root, &error))?;
        match file.canonicalize() {
            Ok(real) if real.starts_with(&root) => Ok(()),
            Ok(real) => Err(format!(
                "`{}` leads out of `{}`, to `{}`; put the file itself there",
                file.display(),
                self.root.display(),
                real.display()
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(cannot_read(file, &error)),
        }
    }
}

/// Whether a name can be served: it is safe in a path of the file system, in that of a request, and in a log.
pub fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(letter)
}

/// The version that a folder's name tells: a positive integer without leading zeros.
pub fn version_of(name: &str) -> Option<u32> {
    let version: u32 = name.parse().ok()?;
    (version > 0 && version.to_string() == name).then_some(version)
}

/// Reads the `model.toml` of a version's folder; `false` if there is none, which is no fault.
///
/// # Errors
/// What is wrong with it.
pub fn read_manifest(folder: &Path) -> Result<(Manifest, bool), String> {
    let path = folder.join(MANIFEST_FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Manifest::default(), false)),
        file => file.map_err(|error| cannot_read(&path, &error))?,
    };
    let mut text = String::new();
    let read = file.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| cannot_read(&path, &error))?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(format!("`{}` is longer than {MANIFEST_BYTES_MAX} bytes; shorten it", path.display()));
    }
    let manifest = Manifest::parse(&path.display().to_string(), &text).map_err(|error| error.to_string())?;
    Ok((manifest, true))
}

/// The graph as the server has it.
fn graph(engine: &Arc<dyn onnx::Engine>, manifest: &Manifest) -> Result<Graph, String> {
    Graph::new(Arc::clone(engine), &onnx::plan_of(&**engine, manifest)?)
}

/// Sizes of batches to measure and to warm up: powers of two, those preferred, and the largest.
fn sizes(most: usize, preferred: &[usize]) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |rows: &usize| rows.checked_mul(2));
    let mut sizes: Vec<usize> = powers.take_while(|rows| *rows <= most).collect();
    sizes.extend(preferred.iter().filter(|rows| **rows <= most));
    sizes.push(most);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Bytes of the files of a version, weights outside of the ONNX file among them.
fn folder_bytes(folder: &Path) -> Result<usize, String> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).map_err(|error| cannot_read(folder, &error))? {
        let path = entry.map_err(|error| cannot_read(folder, &error))?.path();
        let about = fs::metadata(&path).map_err(|error| cannot_read(&path, &error))?;
        if about.is_file() {
            sum += about.len() as usize;
        }
    }
    Ok(sum)
}

/// The last part of a path, as far as it can be shown: what cannot is no name either.
fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read `{}`: {error}", path.display())
}

/// What is wrong, with the file before it unless it names the file already.
fn named(file: &Path, why: &str) -> String {
    let file = file.display().to_string();
    if why.contains(&file) { why.to_owned() } else { format!("`{file}`: {why}") }
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
