"""A family as tables for people."""

from quadloom_runtime.contract.manifest import FamilyManifest, MemberSpec, StashSpec, TaskSpec


def family_table(manifest: FamilyManifest) -> str:
    """One line per member under a header that says what the family is."""
    lora, batch, stash = manifest.lora, manifest.batch, manifest.stash
    weights = ", ".join(f"{each.format} weights {_mb(each.weights.size_bytes)} MB" for each in manifest.formats)
    lines = [
        f"{manifest.model.architecture} from {manifest.model.source}: {manifest.model.layers} layers, "
        f"{manifest.model.parameters / 1e6:.1f} M parameters",
        f"{_task(manifest.task)}; LoRA rank {lora.rank}, alpha {lora.alpha:g}, "
        f"{len(lora.target_modules)} modules; batch {batch.batch_size} x {batch.sequence_length}; "
        f"{_stash(stash)}; dropout {manifest.dropout:g}; {weights}",
        *_kinds(stash),
        *_weights(manifest),
        "",
        f"{'depth':>5} {'q':>3} {'recompute':>9} {'format':>12} {'planned MB':>11} {'measured':>9} {'step s':>7} "
        f"{'stash MB before':>16} {'after':>7} {'gradient error':>15} {'worst cosine':>13} {'file kB':>8}",
    ]
    lines += [_row(member) for member in manifest.members]
    if manifest.missing:
        labels = ", ".join(key.label for key in manifest.missing)
        lines += ["", f"incomplete: {len(manifest.missing)} members are missing: {labels}"]
        lines += ["run the same `quadloom export` again to finish it"]
    return "\n".join(lines)


def member_table(member: MemberSpec) -> str:
    """The figures of one member."""
    error = member.gradient_error
    rows = {
        "member": f"{member.key.stem} ({member.key.format})",
        "may recompute": f"{member.key.recompute_percent} % of the forward's multiply-adds",
        "shares of rows": ", ".join(map(str, member.row_chunks)) or "1 in every layer",
        "planned peak": f"{_mb(member.planned_peak_bytes)} MB",
        "stash": f"{_mb(member.stash_bytes_before)} MB -> {_mb(member.stash_bytes_after)} MB",
        "weights read": f"{_mb(member.weight_bytes)} MB",
        "multiply-adds": f"forward {member.forward_operations / 1e9:.2f} G, "
        f"backward {member.backward_operations / 1e9:.2f} G",
        "quantized elements": f"{member.quantized_elements / 1e6:.2f} M",
        "gradient error": f"{100 * error.relative_l2:.3f} %, worst cosine {error.worst_cosine:.5f} "
        f"({error.worst_tensor})",
        "file": f"{member.graph.path}, {member.graph.size_bytes / 1e3:.0f} kB, SHA-256 {member.graph.sha256}",
    }
    return "\n".join(f"{name:>18}: {text}" for name, text in rows.items())


def memory_table(member: MemberSpec) -> str:
    """What fills the planned peak, largest first."""
    lines = [
        f"{member.key.label}: planned peak {_mb(member.planned_peak_bytes)} MB",
        f"{'MB':>8} {'share':>6} {'tensors':>8} {'kind':>10} {'layer':>10}  what",
    ]
    for item in member.peak_items:
        share = 100 * item.size_bytes / member.planned_peak_bytes
        lines.append(
            f"{item.size_bytes / 1e6:8.3f} {share:5.1f}% {item.tensors:8d} {item.kind:>10} {item.layer!s:>10}  "
            f"{item.what}"
        )
    rest = member.planned_peak_bytes - sum(item.size_bytes for item in member.peak_items)
    share = 100 * rest / member.planned_peak_bytes
    lines.append(
        f"{rest / 1e6:8.3f} {share:5.1f}% {'':>8} {'engine':>10} {'':>10}  gaps, results, what the engine keeps"
    )
    return "\n".join(lines)


def _weights(manifest: FamilyManifest) -> list[str]:
    """How rounded weights differ, a line or none."""
    if manifest.weights == "float32":
        return []
    error = manifest.rounding_error
    effect = "effect not measured yet"
    if error is not None:
        effect = f"moves the gradient by {100 * error.relative_l2:.2f} %, worst cosine {error.worst_cosine:.5f}"
        effect += f" ({error.worst_tensor})"
    return [f"frozen linear weights {manifest.weights.upper()} per output channel: rounding {effect}"]


def _task(task: TaskSpec) -> str:
    return task.kind if task.num_labels is None else f"{task.kind}, {task.num_labels} labels"


def _stash(stash: StashSpec) -> str:
    if stash.error_budget is None:
        return f"stash INT{stash.bits} in groups of {stash.group_size}"
    return f"stash INT8 and INT4 within {100 * stash.error_budget:g} % gradient error"


def _kinds(stash: StashSpec) -> list[str]:
    """A line per format: the kinds of stashed tensors that have it, with their layers and gradient errors."""
    formats = sorted({(each.bits, each.group_size) for each in stash.kinds})
    return [
        f"  INT{bits} in groups of {group}: "
        + "; ".join(
            f"{each.kind} [{_ranges(each.layers)}] {100 * each.relative_l2:.2g} %"
            for each in stash.kinds
            if (each.bits, each.group_size) == (bits, group)
        )
        for bits, group in formats
    ]


def _ranges(numbers: tuple[int, ...]) -> str:
    """``(0, 1, 2, 5)`` -> ``0-2,5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _row(member: MemberSpec) -> str:
    key, error = member.key, member.gradient_error
    measured, step_s = member.measured_peak_bytes, member.measured_step_s
    return (
        f"{key.depth:5d} {key.quantized_layers:3d} {key.recompute_percent:7d} % {key.format:>12} "
        f"{_mb(member.planned_peak_bytes):>11} "
        f"{'-' if measured is None else _mb(measured):>9} {'-' if step_s is None else f'{step_s:.2f}':>7} "
        f"{_mb(member.stash_bytes_before):>16} {_mb(member.stash_bytes_after):>7} {100 * error.relative_l2:13.3f} % "
        f"{error.worst_cosine:13.5f} {member.graph.size_bytes / 1e3:8.0f}"
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"
