"""Where the parts meet: one file a job, each a straight script over the rooms below."""
