"""Records in, outcomes and result events out. Knows no offset and no Kafka transaction."""
