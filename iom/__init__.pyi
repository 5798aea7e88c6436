from iom.errors import IomError as IomError
from iom.evaluation.evaluate import evaluate as evaluate
from iom.gallery.gallery import Gallery as Gallery
from iom.keys import TransformKey as TransformKey
from iom.models.embedder import Embedder as Embedder
from iom.models.embedder import load_embedder as load_embedder
from iom.models.face_hasher import ArtifactFaceHasher as ArtifactFaceHasher
from iom.models.face_hasher import FaceHasher as FaceHasher
from iom.models.face_hasher import KerasFaceHasher as KerasFaceHasher
from iom.models.face_hasher import load as load
from iom.nn.backbones.registry import build_backbone as build_backbone
from iom.nn.hash_network import build_hasher as build_hasher
from iom.training.backbone import train_backbone as train_backbone
from iom.training.hasher import train_hasher as train_hasher

__version__: str
