"""The flags of devices and workers. Imports no TensorFlow."""

STRATEGIES = ("auto", "one", "mirrored", "multiworker")


def add_device_flags(parser):
    """Adds the group `devices`; see docs/devices.md."""
    parser.set_defaults(worker_folder=None)  # of `training.workers.own_folders`
    group = parser.add_argument_group("devices", "see docs/devices.md")
    group.add_argument(
        "--strategy", choices=STRATEGIES, default="auto",
        help="one device, all GPUs of this machine (auto: if there are several), or several machines",
    )  # fmt: skip
    group.add_argument(
        "--workers", metavar="HOST:PORT,...", help="of multiworker, the same on each; or set TF_CONFIG"
    )
    group.add_argument("--worker_index", type=int, metavar="I", help="of this worker in --workers; 0: chief")
    group.add_argument(
        "--sync_bn", action="store_true", help="batch norm over the global batch, whatever the devices"
    )
    group.add_argument("--xla", action="store_true", help="compile the net with XLA; one device only")
    group.add_argument(
        "--accumulate", type=int, default=1, metavar="N",
        help="compute a batch in N parts, one after the other: less memory, the same update",
    )  # fmt: skip
