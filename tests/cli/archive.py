"""Writes image archives: layers, docker-archive and OCI layout, with the standard library only.

Used by `scripts/images` for the well-formed images and by the tests for the hostile ones, so
nothing here judges what it writes. The same input gives the same bytes: entries are sorted, and
every time that is not the content's own is EPOCH.
"""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile

EPOCH = 1704067200  # 2024-01-01T00:00:00Z
CREATED = "2024-01-01T00:00:00Z"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


class Layer:
    """A layer written entry by entry; every method returns self so that layers read as lists."""

    def __init__(self):
        self.entries = []

    def raw(self, data=b"", **fields):
        """An entry with exactly these TarInfo fields."""
        info = tarfile.TarInfo(fields.pop("name"))
        info.mtime = EPOCH
        for field, value in fields.items():
            setattr(info, field, value)
        if data:
            info.size = len(data)
        self.entries.append((info, data))
        return self

    def file(self, name, data=b"", mode=0o644, **fields):
        if isinstance(data, str):
            data = data.encode()
        return self.raw(data, name=name, mode=mode, **fields)

    def dir(self, name, mode=0o755, **fields):
        return self.raw(name=name, type=tarfile.DIRTYPE, mode=mode, **fields)

    def symlink(self, name, target, **fields):
        return self.raw(name=name, type=tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)

    def hardlink(self, name, target, **fields):
        return self.raw(name=name, type=tarfile.LNKTYPE, linkname=target, **fields)

    def whiteout(self, path):
        head, tail = os.path.split(path)
        return self.file(os.path.join(head, ".wh." + tail))

    def opaque(self, directory):
        return self.file(directory + "/.wh..wh..opq")

    def tar(self):
        """The layer as bytes."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for info, data in self.entries:
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def write(self, path):
        with open(path, "wb") as out:
            out.write(self.tar())
        return path


def xattrs_as_pax(path):
    """The extended attributes that a layer carries, as PAX records."""
    records = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(("user.", "security.capability")):
            value = os.getxattr(path, name, follow_symlinks=False)
            records["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")
    return records


def tar_tree(root, out_path):
    """Writes the tree at `root`, which may be an overlay's upper directory, as a layer.

    Overlayfs marks a removed name by a 0/0 character device and a replaced directory by
    trusted.overlay.opaque; a layer names them .wh.NAME and .wh..wh..opq.
    """
    links = {}
    with tarfile.open(out_path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(path, name):
            status = os.lstat(path)
            if stat.S_ISSOCK(status.st_mode):
                return
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                head, tail = os.path.split(name)
                add_empty(os.path.join(head, ".wh." + tail))
                return
            info = tar.gettarinfo(path, name)
            info.uname = info.gname = ""
            info.mtime = int(status.st_mtime)
            info.pax_headers = xattrs_as_pax(path)
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                first = links.setdefault(status.st_ino, name)
                if first != name:
                    info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
                    info.pax_headers = {}
                else:
                    # gettarinfo remembers inodes of its own accord; the order here is ours.
                    info.type = tarfile.REGTYPE if stat.S_ISREG(status.st_mode) else info.type
                    info.size = status.st_size if info.isreg() else 0
                    if info.isreg():
                        info.linkname = ""
            if info.isreg():
                with open(path, "rb") as data:
                    tar.addfile(info, data)
            else:
                tar.addfile(info)

        def add_empty(name):
            info = tarfile.TarInfo(name)
            info.mtime = EPOCH
            tar.addfile(info)

        for directory, names, files in os.walk(root):
            names.sort()
            inside = os.path.relpath(directory, root)
            if inside != ".":
                try:
                    if os.getxattr(directory, "trusted.overlay.opaque") == b"y":
                        add_empty(inside + "/.wh..wh..opq")
                except OSError:
                    pass
            for name in sorted(names + files):
                path = os.path.join(directory, name)
                add(path, os.path.normpath(os.path.join(inside, name)))
    return out_path


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Image:
    """Layers (paths of plain tars, bottom first), a runtime config, and names."""

    def __init__(self, tags, layers, comments=None, **config):
        self.tags = tags
        self.layers = layers
        self.diff_ids = [digest_of(layer) for layer in layers]
        self.config = json.dumps(
            {
                "architecture": ARCHITECTURE,
                "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], **config},
                "created": CREATED,
                "history": [
                    {"created": CREATED, "created_by": (comments or [])[n : n + 1][0] if comments and n < len(comments) else f"layer {n}"}
                    for n in range(len(layers))
                ],
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + d for d in self.diff_ids]},
            },
            sort_keys=True,
        ).encode()
        self.id = hashlib.sha256(self.config).hexdigest()


def add_bytes(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), EPOCH, 0o644
    tar.addfile(info, io.BytesIO(data))


def add_path(tar, name, path):
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = os.path.getsize(path), EPOCH, 0o644
    with open(path, "rb") as data:
        tar.addfile(info, data)


def write_docker_archive(out_path, images):
    """`docker save` as engines before 25 wrote it: manifest.json and ID/layer.tar."""
    with tarfile.open(out_path, "w", format=tarfile.GNU_FORMAT) as tar:
        manifest, written = [], set()
        for image in images:
            names = []
            for diff_id, layer in zip(image.diff_ids, image.layers):
                names.append(diff_id + "/layer.tar")
                if diff_id not in written:
                    written.add(diff_id)
                    add_path(tar, diff_id + "/layer.tar", layer)
            add_bytes(tar, image.id + ".json", image.config)
            manifest.append({"Config": image.id + ".json", "RepoTags": image.tags, "Layers": names})
        add_bytes(tar, "manifest.json", json.dumps(manifest).encode())
    return out_path


def write_oci_archive(out_path, images, compress=True, docker_manifest=False):
    """An OCI image layout in a tar; with `docker_manifest` also what engines from 25 on add."""
    work = out_path + ".blobs"
    os.makedirs(work, exist_ok=True)
    with tarfile.open(out_path, "w", format=tarfile.GNU_FORMAT) as tar:
        index, compat, written = [], [], set()

        def blob(data=None, path=None):
            hexdigest = hashlib.sha256(data).hexdigest() if path is None else digest_of(path)
            size = len(data) if path is None else os.path.getsize(path)
            if hexdigest not in written:
                written.add(hexdigest)
                if path is None:
                    add_bytes(tar, "blobs/sha256/" + hexdigest, data)
                else:
                    add_path(tar, "blobs/sha256/" + hexdigest, path)
            return {"digest": "sha256:" + hexdigest, "size": size}

        for image in images:
            layers = []
            for diff_id, layer in zip(image.diff_ids, image.layers):
                kind, path = "application/vnd.oci.image.layer.v1.tar", layer
                if compress:
                    kind, path = kind + "+gzip", os.path.join(work, diff_id)
                    with open(layer, "rb") as data, open(path, "wb") as raw:
                        with gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
                            while block := data.read(1 << 20):
                                packed.write(block)
                layers.append({"mediaType": kind, **blob(path=path)})
                if compress:
                    os.unlink(path)
            config = {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(image.config)}
            manifest_type = "application/vnd.oci.image.manifest.v1+json"
            manifest = blob(json.dumps(
                {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers}).encode())
            for tag in image.tags or [None]:
                entry = {"mediaType": manifest_type, **manifest}
                if tag:
                    entry["annotations"] = {
                        "io.containerd.image.name": "docker.io/library/" + tag,
                        "org.opencontainers.image.ref.name": tag.split(":")[1],
                    }
                index.append(entry)
            compat.append({
                "Config": "blobs/sha256/" + image.id,
                "RepoTags": image.tags,
                "Layers": ["blobs/" + layer["digest"].replace(":", "/") for layer in layers],
            })
        add_bytes(tar, "index.json", json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index}).encode())
        add_bytes(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        if docker_manifest:
            add_bytes(tar, "manifest.json", json.dumps(compat).encode())
    os.rmdir(work)
    return out_path
