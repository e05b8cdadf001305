import pytest
import tensorflow as tf

# Two devices where there is one, for tests of replicas; to be said before TensorFlow looks at them.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def two_replicas():
    """A MirroredStrategy over two CPU devices; one for all tests, as a program has one."""
    from training.distribution import make_strategy

    return make_strategy(["CPU:0", "CPU:1"])
