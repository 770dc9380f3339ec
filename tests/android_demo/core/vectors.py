# ruff: noqa: RUF001 - letters that look alike are the point
"""What the Python packages give, for the Java code to be held against: made anew for every run of the tests."""

import base64
import datetime
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from quadloom_runtime.class_balance import balanced_order
from quadloom_runtime.data import epoch_order, load_examples
from quadloom_runtime.engines.onnx_files import UnsafeGraphError, check_graph_files
from quadloom_runtime.errors import QuadloomError

Case = dict[str, Any]
LENGTH = 16
PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "film",
    "is",
    "un",
    "##watch",
    "##able",
    ",",
    ".",
    "!",
    "'",
    "-",
    "scene",
    "##s",
    "scène",
    "##e",
    "e",
    "σας",
    "Σ",
    "σ",
    "中",
    "文",
    "a",
    "A",
    "B",
    "b",
    "##b",
    "##a",
    "##c",
    "naïve",
    "naive",
    "i",
    "i̇",
    "ı",
    "ß",
    "##ß",
    "🎬",
    "c",
    "##🎬",
)
TEXTS = (
    "",
    " ",
    "the film",
    "The FILM is unwatchable!",
    "scènes, scenes. naïve - naive",
    "scènes as letters and marks",
    "中文film中",
    "ΣΑΣ σας Σ İI ı ß",
    "the\tfilm\n\r\u00a0is\u2003un\u3000the\u200bfilm",
    "a\u0000b\ufffdb\u0007a",
    "🎬 c🎬 b🎬",
    "[SEP] the [MASK]film[CLS][UNK] [sep]",
    "a" * 99 + "b",
    "a" * 101,
    "🎬" * 100,
    "the film is " * 20,
    "[CLS][CLS]" * 20,
    "don't",
    "\U0002b820 \U0002b920 𝔞 ﬁ Ⅷ",
)


def write_vectors(folder: Path) -> None:
    """Write the cases of every kind, and the certificate of a server."""
    (folder / "certificate.p12").write_bytes(_certificate())
    found = {
        "order": _orders(),
        "tokens": _tokens(),
        "characters": _characters(),
        "optimizers": _optimizers(),
        "tensors": _tensors(folder / "tensors.safetensors"),
        "signatures": _signatures(),
        "json": _json(),
        "graphs": _graphs(folder / "graphs"),
        "examples": _examples(folder / "examples.jsonl"),
    }
    for name, cases in found.items():
        (folder / f"{name}.json").write_text(json.dumps({"cases": cases}), encoding="utf-8")


def _orders() -> list[Case]:
    random = np.random.default_rng(1)
    cases = []
    for examples, classes, seed, epoch in ((1, 1, 0, 0), (2, 2, 1, 0), (45, 2, 7, 3), (257, 5, 2**40 + 3, 1)):
        labels = random.integers(classes, size=examples) ** 2
        cases.append(
            {
                "labels": labels.tolist(),
                "seed": seed,
                "epoch": epoch,
                "shuffled": epoch_order(examples, seed=seed, epoch=epoch).tolist(),
                "balanced": balanced_order(labels, seed=seed, epoch=epoch).tolist(),
            }
        )
    return cases


def _tokens() -> list[Case]:
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    bert = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    uncased = normalizers.BertNormalizer()
    cased = normalizers.BertNormalizer(lowercase=False)
    stripped = normalizers.BertNormalizer(lowercase=False, strip_accents=True, handle_chinese_chars=False)
    raw = normalizers.BertNormalizer(clean_text=False)
    return [
        _tokenized(normalizer, processor)
        for normalizer, processor in ((uncased, template), (cased, bert), (stripped, template), (raw, bert))
    ]


def _tokenized(normalizer: Any, processor: Any) -> Case:
    vocabulary = {piece: place for place, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.post_processor = normalizer, processor
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in PIECES[:5]])
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    rows = [(text, tokenizer.encode(text)) for text in TEXTS]
    texts = [{"text": text, "ids": row.ids, "mask": row.attention_mask, "types": row.type_ids} for text, row in rows]
    return {"tokenizer": tokenizer.to_str(), "length": LENGTH, "texts": texts}


def _characters() -> list[Case]:
    """Characters that Unicode had by version 3.2 and has not reclassified: every platform's tables know them alike."""
    old = unicodedata.ucd_3_2_0
    known = [
        code
        for code in range(0x110000)
        if old.category(chr(code)) not in ("Cn", "Cs", "Co")
        and old.category(chr(code)) == unicodedata.category(chr(code))
    ]
    # One of many letters that no table tells apart.
    characters = [
        code for code in known if not 0x3400 < code < 0x9F00 and not 0xAC00 < code < 0xD700 and code < 0x20010
    ]
    cases = []
    for uncased in (True, False):
        normalizer = normalizers.BertNormalizer(lowercase=uncased)
        pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        words = [
            " ".join(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"A{chr(code)}b")))
            for code in characters
        ]
        cases.append({"uncased": uncased, "characters": characters, "words": words})
    return cases


def _optimizers() -> list[Case]:
    random = np.random.default_rng(2)
    return [
        _optimized(random, name, decay=decay, clip_norm=clip_norm)
        for name in ("adamw", "sgd")
        for decay in (0.0, 0.1)
        for clip_norm in (None, 0.5)
    ]


def _optimized(random: np.random.Generator, name: str, *, decay: float, clip_norm: float | None) -> Case:
    rate = 0.01
    parameter = torch.nn.Parameter(torch.from_numpy(random.standard_normal(7).astype(np.float32)))
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    optimizer = kind([parameter], lr=rate, weight_decay=decay)
    case: Case = {"optimizer": name, "weight_decay": decay, "rate": rate, "start": parameter.tolist(), "steps": []}
    for scale in (1, 100, 1e-4, 0, 1):
        gradient = (scale * random.standard_normal(7)).astype(np.float32)
        parameter.grad = torch.from_numpy(gradient.copy())
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([parameter], clip_norm)
        optimizer.step()
        step = {"gradient": gradient.tolist(), "clip_norm": clip_norm, "value": parameter.tolist()}
        case["steps"].append(step)
    return case


def _tensors(path: Path) -> list[Case]:
    random = np.random.default_rng(3)
    shapes = {"layer.lora_A.weight": (2, 3), "layer.lora_B.weight": (3, 2), "bias": (2,), "scale": (), "empty": (0, 4)}
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    metadata = {"report": '{"text": "ä\\"🎬"}'}
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path, metadata)
    described = {
        name: {"shape": list(value.shape), "values": value.ravel().tolist()} for name, value in tensors.items()
    }
    return [{"tensors": described, "metadata": metadata}]


def _signatures() -> list[Case]:
    random = np.random.default_rng(4)
    cases = []
    for size in (0, 1, 1000):
        seed, message = random.bytes(32), random.bytes(size)
        key = Ed25519PrivateKey.from_private_bytes(seed)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        content = {"seed": seed, "message": message, "signature": key.sign(message)}
        texts = {"private_pem": private.decode(), "public_pem": public.decode()}
        cases.append({name: base64.b64encode(value).decode() for name, value in content.items()} | texts)
    return cases


def _json() -> list[Case]:
    values: list[Any] = [
        None,
        [True, False, []],
        {"": {}, 'ä"\\\n\u0001🎬': "/"},
        [0, -1, 10**17, 1.5, -2.5e-300, 1e22, 0.1],
    ]
    return [
        {"text": json.dumps(value, ensure_ascii=is_ascii, indent=indent), "value": value}
        for value in values
        for is_ascii in (True, False)
        for indent in (None, 1)
    ]


def _examples(path: Path) -> list[Case]:
    """Files of labelled texts, and the labels that a Python device reads in them; none where it refuses the file."""
    good: tuple[Any, ...] = (0, 1, 1.0, -0.0, 1e3, "1", "1.0", " 1\n", "1e0", "10E-1", "+1", "-0", "01", "1.", ".0")
    bad = (-1, 1.5, True, None, [1], {}, "", " ", ".", "-1", "1.5", "1d", "1f", "0x1p0", "1 0", "NaN", "Infinity")
    lines = [json.dumps({"text": "ä", "label": label}) for label in (*good, *bad)]
    contents = [*lines, '{"text": "a"}', '{"text": 3, "label": 1}', "", "\n"]
    contents += ["\ufeff" + lines[1], f"\ufeff{lines[0]}\r\n\r\n{lines[1]}\r\n", f"{lines[0]}\n\ufeff{lines[1]}"]
    return [{"content": content, "labels": _labels(path, content)} for content in contents]


def _labels(path: Path, content: str) -> list[int | None] | None:
    path.write_text(content, encoding="utf-8", newline="")
    try:
        return [each.label for each in load_examples(path, num_labels=2**31)]
    except QuadloomError:
        return None


def _graphs(folder: Path) -> list[Case]:
    """A graph with a tensor in its weights file, and copies of it with bytes altered or another place stated."""
    folder.mkdir()
    weights = folder / "weights.bin"
    weights.write_bytes(bytes(64))
    whole = _graph(location="weights.bin", offset="32", length="32")
    contents = [whole, b"", whole[:-1], _graph(offset="0", length="64"), _graph(location="weights.bin")]
    contents += [_graph(location=place, offset="0", length="8") for place in ("../device.key", "/etc/passwd")]
    contents += [_graph(location="weights.bin", offset=offset, length="8") for offset in ("64", "-1", "1e1", "")]
    random = np.random.default_rng(5)
    for _ in range(300):
        altered = bytearray(whole)
        for place in random.integers(len(whole), size=random.integers(1, 4)):
            altered[place] = random.integers(256)
        contents.append(bytes(altered))
    cases = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.onnx"
        path.write_bytes(content)
        try:
            check_graph_files(path, weights)
        except UnsafeGraphError:
            is_safe = False
        else:
            is_safe = True
        cases.append({"graph": f"graphs/{path.name}", "is_safe": is_safe})
    return cases


def _graph(**external: str) -> bytes:
    inside = onnx.numpy_helper.from_array(np.zeros(8, np.float32), "weight")
    inside.ClearField("raw_data")
    inside.data_location = onnx.TensorProto.EXTERNAL
    for key, value in external.items():
        inside.external_data.add(key=key, value=value)
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (8,))
    node = onnx.helper.make_node("Identity", ["weight"], ["y"])
    graph = onnx.helper.make_graph([node], "tiny", [], [value], [inside])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def _certificate() -> bytes:
    """Certificate for 127.0.0.1 and its key, signed by nobody whom a device knows; the password is "vectors"."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return pkcs12.serialize_key_and_certificates(b"server", key, certificate, None, BestAvailableEncryption(b"vectors"))
