from .errors import IomError as IomError
from .evaluation.evaluate import evaluate as evaluate
from .gallery.cards import Card as Card
from .gallery.gallery import Gallery as Gallery
from .keys import Key as Key
from .keys import SubjectToken as SubjectToken
from .keys import TransformKey as TransformKey
from .models.code import Code as Code
from .models.embedder import Embedder as Embedder
from .models.embedder import load_embedder as load_embedder
from .models.face_hasher import ArtifactFaceHasher as ArtifactFaceHasher
from .models.face_hasher import FaceHasher as FaceHasher
from .models.face_hasher import KerasFaceHasher as KerasFaceHasher
from .models.face_hasher import load as load
from .models.face_hasher import verify as verify
from .models.verification import Verification as Verification
from .nn.backbones.registry import build_backbone as build_backbone
from .nn.hash_network import build_hasher as build_hasher
from .photos.picture import faces as faces
from .training.backbone import train_backbone as train_backbone
from .training.hasher import train_hasher as train_hasher

__version__: str
