"""The HTTP service. A request goes one way:

connections.py     sockets: limits on headers, times and connections
guard.py           hosts, the key, headers of answers, a line in the log
app.py             routes, and errors as JSON (schema.py, api_page.py: their description)
service.py         from a request to its answer
bodies.py          a body, bounded in bytes and time, becomes encoded images
batching.py        the bounded queue, and which images are run together
pool.py            batches go to workers; one that dies is replaced
worker_process.py  the service's end of a worker
worker.py          the other end: images are decoded and detected in (wire.py: how both speak)
explaining.py      likewise: where detections come from

server.py starts and ends all of it, models.py copies model files and sees them change; options.py, metrics.py and
logs.py are what their names say; page/ is served at /.
"""
