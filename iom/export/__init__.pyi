from .context import ExportContext as ExportContext
from .exporter import Exporter as Exporter
from .formats import FORMATS as FORMATS
