"""The HTTP service. A request goes one way:

server.py     sockets, signals, limits on headers and connections
app.py        routes, the key, errors as JSON
bodies.py     a body, bounded in bytes and time, becomes encoded images
batching.py   the bounded queue, and which images are run together
pool.py       worker processes: batches go there, one that dies is replaced, a new model file takes over
worker.py     such a process: images are decoded and detected there (wire.py: how both speak)

models.py finds the model files and sees them change; options.py, metrics.py, logs.py: what their names say; page/ is
served at /.
"""
