"""Kinds of devices: what one of them may use and how fast it is."""

from dataclasses import dataclass

from quadloom_runtime.errors import QuadloomError

MB = 10**6
MBIT_PER_S = 10**6 / 8


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of device.

    Attributes:
        source: where the numbers come from, in words.
        memory_limit_bytes: what one training step may allocate beyond the loaded, idle runtime. Our assumption of what
            an owner grants, not the size of the device's memory.
        threads: threads that the engine uses.
        slowdown: how much longer a step takes than on the machine that emulates.
        download_bytes_per_s, upload_bytes_per_s: speed of the link, None for no bound.
    """

    name: str
    description: str
    source: str
    memory_limit_bytes: int
    threads: int
    slowdown: float
    download_bytes_per_s: float | None
    upload_bytes_per_s: float | None


_JETSON = (
    "relative speeds from NVIDIA's published peak of each board (TX2 1.33, Xavier NX 21, AGX Xavier 32 TOPS; slowdowns "
    "compressed, since training does not reach peaks); memory share and link are our assumptions"
)
_BOARD = "CPU generation (Cortex-A72 against A76, same clock class); memory share and link are our assumptions"
_PHONE = "our assumptions for three classes of phones; no phone was measured"

PROFILES = (
    DeviceProfile(
        "laptop", "the machine itself, one thread", "no slowdown, no bound on the link", 2000 * MB, 1, 1.0, None, None
    ),
    DeviceProfile(
        "jetson-agx", "NVIDIA Jetson AGX Xavier", _JETSON, 600 * MB, 1, 1.0, 100 * MBIT_PER_S, 50 * MBIT_PER_S
    ),
    DeviceProfile("jetson-nx", "NVIDIA Jetson Xavier NX", _JETSON, 250 * MB, 1, 1.5, 100 * MBIT_PER_S, 50 * MBIT_PER_S),
    DeviceProfile("jetson-tx2", "NVIDIA Jetson TX2", _JETSON, 120 * MB, 1, 3.0, 100 * MBIT_PER_S, 50 * MBIT_PER_S),
    DeviceProfile("raspberry-pi-5", "Raspberry Pi 5", _BOARD, 160 * MB, 1, 2.0, 50 * MBIT_PER_S, 25 * MBIT_PER_S),
    DeviceProfile("raspberry-pi-4", "Raspberry Pi 4", _BOARD, 80 * MB, 1, 4.0, 50 * MBIT_PER_S, 25 * MBIT_PER_S),
    DeviceProfile("phone-high", "recent flagship phone", _PHONE, 200 * MB, 1, 1.0, 100 * MBIT_PER_S, 40 * MBIT_PER_S),
    DeviceProfile("phone-mid", "mid-range phone", _PHONE, 90 * MB, 1, 1.5, 50 * MBIT_PER_S, 20 * MBIT_PER_S),
    DeviceProfile("phone-low", "entry phone", _PHONE, 45 * MB, 1, 2.5, 20 * MBIT_PER_S, 8 * MBIT_PER_S),
)


def profile(name: str) -> DeviceProfile:
    """The profile of that name.

    Raises:
        QuadloomError: there is none.
    """
    for each in PROFILES:
        if each.name == name:
            return each
    names = ", ".join(each.name for each in PROFILES)
    raise QuadloomError(f"no device profile is called {name!r}", remedy=f"choose one of: {names}")
