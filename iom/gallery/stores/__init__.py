from iom.errors import needs_extra

with needs_extra("a gallery", "gallery"):
    import sqlalchemy as sqlalchemy
