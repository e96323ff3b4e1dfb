//! Writes an OCI image of one layer as the archive that containerd imports. Same content, same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use crate::digest::hex;
use crate::platform::Platform;

/// What an image holds and what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: String,
    /// Other names under which it is found.
    aliases: Vec<String>,
    platform: Platform,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { to: String },
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Image {
    /// An empty image. The name is the full one (`docker.io/…:tag`): containerd looks it up as it stands here.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            platform: Platform::HERE,
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: vec![PATH.to_owned()],
            entries: BTreeMap::new(),
        }
    }

    /// What the image is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For which machine its programs are; this one if nothing else is said.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// What runs unless a pod names a command; a pod's arguments are appended to it.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(ToString::to_string).collect();
        self
    }

    /// What runs unless a pod names a command or arguments.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(ToString::to_string).collect();
        self
    }

    /// A variable that every container of the image has.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The same content under another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Has it found under this full name too.
    #[must_use]
    pub fn also_named(mut self, name: &str) -> Self {
        self.aliases.push(name.to_owned());
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(mut self, at: &str, mode: u32) -> Self {
        self.put(at, Entry::Directory { mode });
        self
    }

    /// Adds a file with its content.
    #[must_use]
    pub fn file(mut self, at: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.put(
            at,
            Entry::File {
                mode,
                content: content.into(),
            },
        );
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, at: &str, to: &str) -> Self {
        self.put(at, Entry::Link { to: to.to_owned() });
        self
    }

    /// Adds an executable of this machine.
    pub fn program(self, at: &str, from: &Path) -> Result<Self, ImageError> {
        let content = fs::read(from).map_err(|source| ImageError::Read {
            path: from.to_owned(),
            source,
        })?;
        Ok(self.file(at, 0o755, content))
    }

    fn put(&mut self, at: &str, entry: Entry) {
        let at = at.trim_matches('/');
        // Parents come first in the layer because a map of paths is sorted.
        for (index, _) in at.match_indices('/') {
            self.entries
                .entry(at[..index].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(at.to_owned(), entry);
    }

    /// Writes the archive; replaces a file that is there.
    pub fn write(&self, archive: &Path) -> Result<(), ImageError> {
        let failed = |source| ImageError::Write {
            path: archive.to_owned(),
            source,
        };
        let unfinished = archive.with_extension("unfinished");
        let write = || {
            if let Some(parent) = archive.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = io::BufWriter::new(fs::File::create(&unfinished)?);
            self.write_to(&mut file)?;
            file.flush()?;
            fs::rename(&unfinished, archive)
        };
        write().map_err(failed)
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let layer = Blob::new(self.layer()?);
        let config = Blob::json(&self.config(&layer.digest()));
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        }));
        let index = self.index(&manifest).to_string();
        let mut archive = tar::Builder::new(out);
        add(
            &mut archive,
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        add(&mut archive, "index.json", index.as_bytes())?;
        for blob in [&config, &manifest, &layer] {
            add(
                &mut archive,
                &format!("blobs/sha256/{}", blob.hash),
                &blob.content,
            )?;
        }
        archive.finish()
    }

    fn index(&self, manifest: &Blob) -> Value {
        let entry = |name: &String| {
            let mut entry = manifest.descriptor(MANIFEST);
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            entry["annotations"] = json!({
                // containerd takes an image's name from this annotation alone.
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            });
            entry
        };
        let names = std::iter::once(&self.name).chain(&self.aliases);
        json!({ "schemaVersion": 2, "manifests": names.map(entry).collect::<Vec<_>>() })
    }

    fn config(&self, layer_digest: &str) -> Value {
        let mut runs = json!({ "Env": self.environment });
        for (key, words) in [("Entrypoint", &self.entrypoint), ("Cmd", &self.command)] {
            if !words.is_empty() {
                runs[key] = json!(words);
            }
        }
        json!({
            "architecture": self.platform.architecture(),
            "os": "linux",
            "config": runs,
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        })
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = plain_header();
            match entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    layer.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::File { mode, content } => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    layer.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { to } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    layer.append_link(&mut header, path, to)?;
                }
            }
        }
        layer.into_inner()
    }
}

/// A header that depends on nothing but what is set later: no owner, no time.
fn plain_header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn add(archive: &mut tar::Builder<&mut impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = plain_header();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content)
}

/// Content that is addressed by its digest, which is computed once: layers are large.
struct Blob {
    content: Vec<u8>,
    hash: String,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        let hash = hex(&Sha256::digest(&content));
        Self { content, hash }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest(), "size": self.content.len() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        Image::new("docker.io/tessera/thing:1")
            .entrypoint(&["/bin/thing"])
            .file("/bin/thing", 0o755, "content")
            .link("/bin/other", "thing")
            .directory("/tmp", 0o1777)
    }

    fn archive(image: &Image) -> (Vec<u8>, HashMap<String, Vec<u8>>) {
        let mut written = Vec::new();
        image.write_to(&mut written).unwrap();
        let mut files = HashMap::new();
        for entry in tar::Archive::new(written.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        (written, files)
    }

    fn blob<'a>(files: &'a HashMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        let blob = &files[&format!("blobs/sha256/{digest}")];
        assert_eq!(hex(&Sha256::digest(blob)), digest);
        assert_eq!(descriptor["size"], blob.len());
        blob
    }

    #[test]
    fn every_digest_and_size_from_the_index_to_the_layer_is_that_of_its_blob() {
        let (_, files) = archive(&image());
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(
            index["manifests"][0]["annotations"]["io.containerd.image.name"],
            "docker.io/tessera/thing:1"
        );
        assert_eq!(
            index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"],
            "1"
        );
        let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
        blob(&files, &manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/thing"]));
        assert_eq!(config["config"].get("Cmd"), None);
        assert_eq!(files.len(), 5);
    }

    #[test]
    fn an_image_of_several_names_is_in_the_index_under_each() {
        let (_, files) = archive(&image().also_named("docker.io/library/other:2"));
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        let name = |at: usize| &manifests[at]["annotations"]["io.containerd.image.name"];
        assert_eq!(name(0), "docker.io/tessera/thing:1");
        assert_eq!(name(1), "docker.io/library/other:2");
        assert_eq!(manifests[0]["digest"], manifests[1]["digest"]);
        assert_eq!((manifests.len(), files.len()), (2, 5));
    }

    #[test]
    fn the_layer_holds_parents_before_children_with_modes_and_links() {
        let layer = image().layer().unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let link = entry
                .link_name()
                .unwrap()
                .map(|to| to.display().to_string());
            seen.push((
                entry.path().unwrap().display().to_string(),
                entry.header().mode().unwrap(),
                link,
            ));
        }
        assert_eq!(
            seen,
            [
                ("bin/".to_owned(), 0o755, None),
                ("bin/other".to_owned(), 0o777, Some("thing".to_owned())),
                ("bin/thing".to_owned(), 0o755, None),
                ("tmp/".to_owned(), 0o1777, None),
            ]
        );
    }

    #[test]
    fn the_same_content_makes_the_same_bytes_in_whatever_order_it_was_added() {
        let other = Image::new("docker.io/tessera/thing:1")
            .directory("tmp", 0o1777)
            .link("bin/other", "thing")
            .file("bin/thing", 0o755, "content")
            .entrypoint(&["/bin/thing"]);
        assert_eq!(archive(&image()).0, archive(&other).0);
        assert_ne!(
            archive(&image()).0,
            archive(&image().file("/x", 0o644, "")).0
        );
    }

    #[test]
    fn a_path_longer_than_a_plain_header_holds_survives() {
        let long = format!("usr/{}/file", "d".repeat(180));
        let layer = Image::new("a:1").file(&long, 0o644, "x").layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths.last(), Some(&long));
    }
}
