package main

import (
	"strings"

	"github.com/IBM/sarama"
)

func sendSarama(a asked) error {
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true // a SyncProducer is refused without it
	if a.isSet() {
		config.Producer.Partitioner = sarama.NewMurmur2Partitioner
		config.Producer.RequiredAcks = sarama.WaitForAll
	}
	producer, err := sarama.NewSyncProducer(strings.Split(a.Servers, ","), config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for _, key := range a.Keys {
		message := sarama.ProducerMessage{Topic: a.Topic, Key: sarama.StringEncoder(key), Value: sarama.StringEncoder(a.Value)}
		messages = append(messages, &message)
	}
	return producer.SendMessages(messages)
}

func readSarama(a asked) ([]string, error) {
	config := sarama.NewConfig()
	if a.isSet() {
		config.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	consumer, err := sarama.NewConsumer(strings.Split(a.Servers, ","), config)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(a.Topic, 0, sarama.OffsetOldest)
	if err != nil {
		return nil, err
	}
	defer partition.Close()
	var values []string
	for message := range partition.Messages() {
		values = append(values, string(message.Value))
		if string(message.Value) == a.Until {
			break
		}
	}
	return values, nil
}
