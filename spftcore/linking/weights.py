"""Weights of the linear scores, fitted on Spider's train pairs (`bench/linking.py --fit`)."""

SAME_SPAN = 0.7
VALUE_BIAS = -8.006
VALUE_WEIGHTS = (3.401, -0.137, 1.464, 1.000, 0.805, -1.276, 0.940, 0.155, -1.452, -0.949, -1.672, 0.763, -0.187, 1.519, 1.183, 0.780, -0.181, -0.378, -1.844, 0.586, -4.370, -0.478, 3.161, 3.996, 0.842, 0.975, 3.226, -0.398)
