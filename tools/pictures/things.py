def build(library, folder):
    pass
