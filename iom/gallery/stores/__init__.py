from iom.errors import missing_extra

try:
    import sqlalchemy as sqlalchemy
except ModuleNotFoundError as error:
    raise missing_extra("a gallery", "gallery", cause=error) from error
