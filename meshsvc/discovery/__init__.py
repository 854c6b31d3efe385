"""Where peers are: backends that are asked again and again, and whether this node is ready.

Above the mesh, below the tables: it knows of tables what ``tables.TablesView`` tells.
"""
