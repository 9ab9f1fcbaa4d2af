//! Compiles every file below `proto/` and derives what the crate exposes of it: the generated
//! code, the descriptors, and the list of method paths.
//!
//! The compiler is written in Rust, so that a build needs no `protoc`.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const ROOT: &str = "proto";

#[allow(
    clippy::disallowed_methods,
    reason = "Cargo speaks to a build script through its environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    // Watched by the file as well as by the folder: a folder's own time changes only when files
    // come and go.
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ROOT}");
    let mut protos = Vec::new();
    collect_protos(Path::new(ROOT), &mut protos)?;
    protos.sort();
    for proto in &protos {
        println!("cargo::rerun-if-changed={}", proto.display());
    }

    let descriptors = protox::compile(&protos, [ROOT])?;

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("descriptors.bin"),
        without_comments(descriptors.clone()).encode_to_vec(),
    )?;
    fs::write(out_dir.join("methods.rs"), method_list(&descriptors)?)?;

    tonic_prost_build::configure()
        // Connections are made by the callers, who bring their own TLS.
        .build_transport(false)
        // Ordered maps: the same message has the same bytes on every node.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect_protos(folder: &Path, protos: &mut Vec<PathBuf>) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            collect_protos(&path, protos)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            protos.push(path);
        }
    }
    Ok(())
}

/// Comments are most of a descriptor's bytes and of no use at run time.
fn without_comments(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors
}

/// Source of `METHODS`: the sorted gRPC paths of all services.
fn method_list(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut paths = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let service_name = match file.package() {
                "" => service.name().to_owned(),
                package => format!("{package}.{}", service.name()),
            };
            for method in &service.method {
                paths.push(format!("/{service_name}/{}", method.name()));
            }
        }
    }
    paths.sort();

    let mut source = String::from(
        "/// gRPC paths of all methods of all services, `/package.Service/Method`, sorted.\n\
         pub const METHODS: &[&str] = &[\n",
    );
    for path in &paths {
        writeln!(source, "    {path:?},")?;
    }
    source.push_str("];\n");
    Ok(source)
}
