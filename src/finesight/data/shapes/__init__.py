"""What rows mean: columns, pictures, conversations, facts from a second table, rules for words.

A reader knows a container (`finesight.data.sources`), a shape knows what people put into it; so any shape may come in
any container. `finesight.data.samples` puts the two together.
"""
