"""Which nets there are. Imports nothing, so that command lines can name them at once."""

# Filters and units of the four stages; margin-centre-face, nets/L_Resnet_E_IR_fix_issue9.py::get_resnet.
STAGES = {
    32: ((16, 3), (32, 3), (64, 6), (128, 3)),
    50: ((64, 3), (128, 4), (256, 14), (512, 3)),
    100: ((64, 3), (128, 13), (256, 30), (512, 3)),
    152: ((64, 3), (128, 8), (256, 36), (512, 3)),
}
UNIT_TYPES = ("ir", "se_ir")
