//! Which library of ONNX Runtime is used, and its way into the process.

use std::ffi::{CStr, OsStr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::sys::{OrtApi, OrtApiBase};

use crate::{Error, Result, files};

/// The variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The folders of the environments of Python that are active.
const ENVIRONMENTS: [&str; 2] = ["VIRTUAL_ENV", "CONDA_PREFIX"];

/// The way out of every error here.
const WAY_OUT: &str =
    "`pip install onnxruntime` in an active virtual environment brings it, or ORT_DYLIB_PATH names it";

/// Whether this program can load no library at all: musl has no dynamic linker in a static program.
const IS_STATIC: bool = cfg!(all(target_env = "musl", target_feature = "crt-static"));

/// ONNX Runtime in this process, where it stays: a process loads one.
#[derive(Clone, Debug)]
pub struct Library {
    version: String,
    path: PathBuf,
    pub(super) environment: Environment,
}

static LOADED: Mutex<Option<Library>> = Mutex::new(None);

impl Library {
    /// The library at `given`; without it, the one that the variable `ORT_DYLIB_PATH` names, the one of the Python package
    /// `onnxruntime` in the active virtual environment, or the one that the system finds.
    ///
    /// An error says what was looked for, and how to get it.
    pub fn load(given: Option<&Path>) -> Result<Self> {
        if IS_STATIC {
            return Err(Error::usage(
                "the library of ONNX Runtime: a static program cannot load it; \
                 the Python package can: `pip install onnx-ptq4vit onnxruntime`",
            ));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let path = match given {
            Some(path) => regular(path)?,
            None => found()?,
        };
        if let Some(library) = &*loaded {
            return if library.path == path {
                Ok(library.clone())
            } else {
                Err(second(&library.path, &path))
            };
        }
        let (version, api) = open(path.as_os_str()).map_err(|why| unusable(&path, why))?;
        ort::set_api(api);
        // What it would say of a model goes to stderr as it is; what matters of it comes back as an error.
        let silent = Arc::new(|_: LogLevel, _: &str, _: &str, _: &str, _: &str| {});
        let environment = ort::init().with_telemetry(false).with_logger(silent).build();
        let environment = environment.map_err(|why| unusable(&path, why))?;
        environment.set_log_level(LogLevel::Fatal);
        Ok(loaded.insert(Self { version, path, environment }).clone())
    }

    /// Such as `1.20.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it is: a name alone if the system found it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The library that is used if none is named.
fn found() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return regular(Path::new(&path));
    }
    let of_python =
        ENVIRONMENTS.into_iter().filter_map(std::env::var_os).find_map(|root| of_python(root.as_ref()));
    of_python.map_or_else(|| Ok(libloading::library_filename("onnxruntime").into()), |path| regular(&path))
}

/// The library of the package `onnxruntime` in the environment of Python at `root`; of several the first by name.
fn of_python(root: &Path) -> Option<PathBuf> {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let named = |path: &Path, start: &str| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(start))
    };
    let of_versions = entries(&root.join("lib")).into_iter().filter(|path| named(path, "python"));
    let packages =
        of_versions.chain([root.join("Lib")]).map(|lib| lib.join("site-packages/onnxruntime/capi"));
    let library = |path: &PathBuf| {
        named(path, &format!("{}onnxruntime.", std::env::consts::DLL_PREFIX)) && path.is_file()
    };
    packages.flat_map(|folder| entries(&folder)).find(library)
}

/// The place of the regular file at `path`: what loads a library would wait for a pipe, and search elsewhere for a name alone.
fn regular(path: &Path) -> Result<PathBuf> {
    files::open(path)
        .map_err(|error| Error::usage(format!("the library of ONNX Runtime: {error}; {WAY_OUT}")))?;
    std::path::absolute(path).map_err(|e| Error::io(path, e))
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::usage(format!("the library of ONNX Runtime: {}: {why}; {WAY_OUT}", path.display()))
}

fn second(loaded: &Path, wanted: &Path) -> Error {
    let (loaded, wanted) = (loaded.display(), wanted.display());
    Error::usage(format!(
        "the library of ONNX Runtime: {wanted}: this process has loaded {loaded}, and can load one"
    ))
}

/// What a library is known by.
type Entry = unsafe extern "system" fn() -> *const OrtApiBase;

/// Loads the library at `path`: its version, and its functions. An error says why it is none that can be used.
#[allow(unsafe_code)]
fn open(path: &OsStr) -> Result<(String, OrtApi), String> {
    let of_system = |error: libloading::Error| match std::error::Error::source(&error) {
        Some(system) => system.to_string(),
        None => error.to_string(),
    };
    // SAFETY: a library runs code when it is loaded. It is the one that the user named, or installed.
    let library = unsafe { libloading::Library::new(path) }.map_err(of_system)?;
    // SAFETY: this is the type that ONNX Runtime gives to this name in all its versions.
    let entry = unsafe { library.get::<Entry>(c"OrtGetApiBase".to_bytes_with_nul()) };
    let entry = *entry.map_err(|_| "it is not ONNX Runtime: it has no function OrtGetApiBase".to_string())?;
    // It stays where it is, and so does all that it points to.
    std::mem::forget(library);
    // SAFETY: the function takes nothing, and gives a pointer to a constant of the library, or null.
    let base = unsafe { entry().as_ref() }.ok_or("it gives no functions")?;
    // SAFETY: the function gives a text of the library that ends with a zero.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
    let oldest = ort::MINOR_VERSION;
    if !is_new_enough(&version, oldest) {
        return Err(format!("it is version {version}, which is too old: 1.{oldest} or later is needed"));
    }
    // SAFETY: for a version that the library has, it gives a pointer to a constant table of at least as many functions.
    let api = unsafe { (base.GetApi)(ort::sys::ORT_API_VERSION).as_ref() };
    let api =
        api.ok_or_else(|| format!("it is version {version}, and has not the functions of 1.{oldest}"))?;
    Ok((version, api.clone()))
}

/// Whether `1.20.1` is at least 1.`oldest`.
fn is_new_enough(version: &str, oldest: u32) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= (1, oldest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, expected) in [
            ("1.17.0", true),
            ("1.32.0", true),
            ("1.100.0-dev", true),
            ("2.0", true),
            ("1.16.3", false),
            ("1.9.0", false),
            ("0.99", false),
            ("", false),
            ("new", false),
        ] {
            assert_eq!(is_new_enough(version, 17), expected, "{version}");
        }
    }

    #[test]
    fn the_package_of_an_environment_is_found() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(of_python(root.path()), None);
        let folder = root.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        std::fs::create_dir_all(&folder).unwrap();
        let prefix = std::env::consts::DLL_PREFIX;
        for other in ["onnxruntime_providers_shared.so", "onnxruntime_pybind11_state.so", "other.so"] {
            std::fs::write(folder.join(format!("{prefix}{other}")), "").unwrap();
        }
        assert_eq!(of_python(root.path()), None);
        let library = folder.join(format!("{prefix}onnxruntime.so.1.32.0"));
        std::fs::write(&library, "").unwrap();
        assert_eq!(of_python(root.path()), Some(library));
    }
}
