"""Synthetic faces: a statistical model of aligned faces, its fit, and its samples."""

from iom.synthetic.face_model import FaceModel as FaceModel
from iom.synthetic.face_model import load_face_model as load_face_model
from iom.synthetic.face_model import write_folder as write_folder
