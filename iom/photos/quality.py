"""Quality of an aligned face: sharpness, brightness, and the head's pose from five points."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.photos.align import SIZE, TEMPLATE
from iom.photos.images import Pixels

EDGE = 16
"""Pixels on each side of an aligned face that are not looked at: hair, background, black."""
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Towards the camera, in pixels of the template (1.8 mm on a face whose eyes are 63 mm apart): the
# tip of the nose stands 36 mm before the eyes, the corners of the mouth 9 mm.
DEPTHS = np.array([0.0, 0.0, 20.0, 5.0, 5.0])


@dataclasses.dataclass(frozen=True)
class Pose:
    """Angles in degrees as seen in the image, 0 for the frontal face of the template: pitch first, then yaw, then roll.

    Positive yaw: the nose points to the right; pitch: down; roll: the line through the eyes is turned clockwise.
    """

    yaw: float
    pitch: float
    roll: float


def head_shape() -> NDArray[np.float64]:
    """Five points of a frontal head `(5, 3)`, centred: x right, y down, z towards the camera."""
    points = np.column_stack([TEMPLATE, DEPTHS])
    mirrored = points[[1, 0, 2, 4, 3]] * [-1, 1, 1]
    shape = (points - points.mean(axis=0) + mirrored - mirrored.mean(axis=0)) / 2
    return np.asarray(shape, np.float64)


def pose_of(points: ArrayLike) -> Pose:
    """Pose of a head whose points are `points` `(5, 2)`, under scaled orthography.

    The affine camera that takes `head_shape` to the points by least squares, and the rotation next to it (POS of
    DeMenthon and Davis, IJCV 1995, with all points at once). For any one person it is some degrees off.
    """
    given = np.asarray(points, np.float64)
    camera, *_ = np.linalg.lstsq(head_shape(), given - given.mean(axis=0), rcond=None)
    left, _, right = np.linalg.svd(camera.T, full_matrices=False)
    across, down = left @ right  # of the head's three axes, how far each goes right and down
    towards = np.cross(across, down)
    roll = np.arctan2(down[0], across[0])
    nose_right = np.cos(roll) * across[2] + np.sin(roll) * down[2]
    nose_down = np.cos(roll) * down[2] - np.sin(roll) * across[2]
    yaw = np.arctan2(nose_right, towards[2])
    pitch = np.arctan2(nose_down, np.hypot(nose_right, towards[2]))
    return Pose(*(float(np.degrees(angle)) for angle in (yaw, pitch, roll)))


def sharpness_of(face: Pixels) -> float:
    """Variance of the Laplacian of the luminance (Pech-Pacheco et al., ICPR 2000); low: blurred, or enlarged much."""
    grey = _luminance(face)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def brightness_of(face: Pixels) -> float:
    """Mean luminance of an aligned face, 0 to 255."""
    return float(_luminance(face).mean())


def _luminance(face: Pixels) -> NDArray[np.float64]:
    inner = face[EDGE : SIZE - EDGE, EDGE : SIZE - EDGE].astype(np.float64)
    return np.asarray(inner @ np.array(LUMINANCE))
